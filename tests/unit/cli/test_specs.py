"""Job specs from files and options: what is said when they are wrong."""

from pathlib import Path

import pytest

from factory.cli.app import run

MINIMAL = "dataset: hypotheses\nmodel: demo\ncount: 4\n"


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A valid job is then answered with 5: no factory runs in this home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path))
    for name in ("FACTORY_URL", "FACTORY_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def submit(text: str | bytes, *options: str) -> int:
    data = text.encode() if isinstance(text, str) else text
    Path("job.yaml").write_bytes(data)
    return run(["job", "submit", "job.yaml", *options])


def test_a_valid_file_gets_as_far_as_the_factory(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(MINIMAL) == 5
    assert "factory up" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "field", "reason"),
    [
        ("dataset: hypotheses\nmodel: demo\n", "count", "required"),
        (MINIMAL + "guidance: {eta: much}\n", "guidance.eta", "number"),
        (MINIMAL + "guidance: {etaa: 1}\n", "guidance.etaa", "not permitted"),
        (MINIMAL + "negatives: {sources: {refused: 1}}\n", "negatives.sources", "refused"),
        (MINIMAL + "audit: 2\n", "audit", "less than or equal to 1"),
        (MINIMAL + "kind: generates\n", "kind", "generate"),
        (MINIMAL + "kind: train\nbase: demo\n", "count", "not permitted"),
    ],
)
def test_a_wrong_field_is_named(
    text: str, field: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(text) == 4
    said = capsys.readouterr().err
    assert field in said
    assert reason in said
    assert "generate.guidance" not in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dataset: [unclosed\nmodel: demo\n", "job.yaml, line 2"),
        ("just words", "does not hold the fields of a job"),
        ("", "does not hold the fields of a job"),
        (b"\xff\xfe\x00", "job.yaml"),
    ],
)
def test_a_file_that_is_no_job_is_named(
    text: str | bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(text) == 4
    assert said in capsys.readouterr().err


def test_options_win_over_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(MINIMAL + "guidance: {eta: 0.2}\n", "--eta", "99") == 4
    assert "guidance.eta" in capsys.readouterr().err


def test_set_wins_over_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(MINIMAL, "--eta", "99", "--set", "guidance.eta=0.5") == 5


def test_set_takes_any_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert submit(MINIMAL, "--set", "negatives.sources={rejected: 1, nonsense: 2}") == 4
    assert "nonsense" in capsys.readouterr().err


def test_options_alone_are_enough() -> None:
    words = "job submit --dataset a --model b --count 3 --gamma -0.5 --no-center --no-review"
    assert run(words.split()) == 5


def test_a_missing_file_is_a_matter_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["job", "submit", "nowhere.yaml"]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def test_training_is_checked_in_the_same_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["model", "train", "m", "--dataset", "d", "--base", "demo", "--rank", "0"]) == 4
    assert "rank" in capsys.readouterr().err
