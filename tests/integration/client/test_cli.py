"""The command line against the real application: answers, documents, exit codes."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from factory.cli.app import run
from factory.client import Client
from factory.settings import Settings
from workers.evaluate import Evaluator

from . import conftest

pytestmark = pytest.mark.usefixtures("command_line")
Captured = pytest.CaptureFixture[str]
UNKNOWN = uuid.UUID(int=0)  # of no row


@pytest.fixture
def submit(name: str, model: str) -> list[str]:
    """The words that submit a small job."""
    return ["job", "submit", "--dataset", name, "--model", model, "--count", "3"]


def document(captured: Captured, code: int, *words: str) -> Any:
    """The one JSON document of a command that ends with this code."""
    captured.readouterr()
    assert run([*words, "--json"]) == code
    out = captured.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


def test_datasets_from_making_to_export(name: str, capsys: Captured) -> None:
    Path("real.ndjson").write_text('{"text": "a"}\n{"text": "b"}\n{"text": "a"}\n')
    done = document(capsys, 0, "dataset", "import", name, "real.ndjson")
    assert done == {"imported": 2, "duplicates": 1, "rejected": []}
    assert document(capsys, 0, "dataset", "show", name)["counts"]["origin"] == {"real": 2}
    names = [each["name"] for each in document(capsys, 0, "dataset", "list")["items"]]
    assert name in names
    written = document(capsys, 0, "dataset", "export", name, "-o", "out.csv")
    assert (written["format"], written["bytes"]) == ("csv", Path("out.csv").stat().st_size)


def test_levers_of_a_dataset_are_set(name: str, capsys: Captured) -> None:
    Path("feedback.yaml").write_text("levers: {gates: {copies: 0.9}}\nwindow: {rounds: 2}\n")
    made = document(capsys, 0, "dataset", "set", name, "--feedback", "feedback.yaml")
    assert made["feedback"]["levers"]["gates"]["copies"] == 0.9
    assert made["feedback"]["window"] == {"rounds": 2, "days": None}
    inline = "{levers: {verdict_head: {weight: 2}, adapters: {}}}"
    assert run(["dataset", "set", name, "--feedback", inline]) == 0
    assert "use: adapters, verdict_head" in capsys.readouterr().out
    state = document(capsys, 0, "review", "stats", name)["feedback"]
    assert state["setting"]["levers"]["verdict_head"]["weight"] == 2.0
    for wrong in ("{levers: {hammer: {}}}", "{levers: [", "levers.yaml"):
        assert run(["dataset", "set", name, "--feedback", wrong]) == 4


def test_lines_that_are_wrong_are_named(name: str, capsys: Captured) -> None:
    Path("real.ndjson").write_text('{"text": "a"}\nnonsense\n')
    assert run(["dataset", "import", name, "real.ndjson"]) == 1
    out = capsys.readouterr().out
    assert "1 imported" in out
    assert "1 rejected" in out
    assert "JSON" in out


def test_an_export_that_cannot_be_written_is_refused(name: str, capsys: Captured) -> None:
    assert run(["dataset", "export", name, "-o", "no/such/folder/out.jsonl"]) == 4
    assert "cannot be written" in capsys.readouterr().err


def test_a_job_from_submission_to_its_end(
    submit: list[str], worker: conftest.Worker, capsys: Captured
) -> None:
    job = document(capsys, 0, *submit, "--eta", "0.2", "--seed", "5")
    assert (job["spec"]["guidance"]["eta"], job["spec"]["seed"]) == (0.2, 5)
    worker.make(job["id"], ["x", "y", "z"])
    assert document(capsys, 0, "job", "show", job["id"])["state"] == "succeeded"
    assert document(capsys, 0, "job", "watch", job["id"])["progress"]["done"] == 3
    assert run(["job", "watch", job["id"]]) == 0
    shown = capsys.readouterr()
    assert "3/3 samples" in shown.err
    assert "succeeded, 3 of 3 samples" in shown.out


def test_the_same_key_gives_the_same_job(submit: list[str], capsys: Captured) -> None:
    words = [*submit, "--idempotency-key", uuid.uuid4().hex]
    assert document(capsys, 0, *words)["id"] == document(capsys, 0, *words)["id"]
    assert "clashes" in document(capsys, 4, *words, "--seed", "1")["error"]["title"]


def test_watching_a_job_that_did_not_succeed_is_1(submit: list[str], capsys: Captured) -> None:
    job_id = document(capsys, 0, *submit)["id"]
    assert document(capsys, 0, "job", "pause", job_id)["state"] == "paused"
    assert document(capsys, 0, "job", "resume", job_id)["state"] == "pending"
    assert document(capsys, 0, "job", "cancel", job_id)["state"] == "cancelled"
    assert document(capsys, 1, "job", "watch", job_id)["state"] == "cancelled"
    listed = document(capsys, 0, "job", "list", "--state", "cancelled", "--limit", "1")
    assert [job["id"] for job in listed["items"]] == [job_id]


def test_an_evaluation_is_shown_as_a_table(
    submit: list[str],
    worker: conftest.Worker,
    client: Client,
    evaluator: Evaluator,
    name: str,
    capsys: Captured,
) -> None:
    client.import_samples(name, ["one two three", "four five six"])
    job_id = document(capsys, 0, *submit)["id"]
    worker.make(job_id, ["a b", "a b", "one two three"])
    words = ["dataset", "evaluate", name, "--job", job_id, "--metric", "yield", "--metric", "mauve"]
    with conftest.working(evaluator, client, name):
        assert run([*words, "--watch"]) == 0
        shown = capsys.readouterr().out
    ended = document(capsys, 0, "job", "list", "--dataset", name, "--limit", "1")["items"][0]
    lines = [line.split("  ") for line in shown.splitlines()]
    assert ["Yield", "0.3333"] in [[part for part in line if part][:2] for line in lines]
    assert "80 samples and twice as many real ones are needed" in shown
    assert "succeeded, 2 of 2 measures" in shown
    assert ended["result"]["measures"][0]["value"] == pytest.approx(1 / 3)
    assert client.metrics(name)["evaluation"]["job"] == ended["id"]


def test_an_evaluation_without_samples_is_1(
    client: Client, evaluator: Evaluator, name: str, capsys: Captured
) -> None:
    with conftest.working(evaluator, client, name):
        assert run(["dataset", "evaluate", name, "--watch"]) == 1
    assert "holds no such samples" in capsys.readouterr().out
    waiting = document(capsys, 0, "dataset", "evaluate", name, "--seed", "3")
    assert (waiting["kind"], waiting["state"], waiting["spec"]["seed"]) == (
        "evaluate",
        "pending",
        3,
    )
    assert run(["dataset", "evaluate", name, "--job", str(uuid.uuid4())]) == 4
    assert "There is no job" in capsys.readouterr().err


def test_a_sample_says_how_it_was_made(
    submit: list[str], worker: conftest.Worker, client: Client, name: str, capsys: Captured
) -> None:
    worker.make(document(capsys, 0, *submit)["id"], ["x", "y", "z"])
    sample_id = next(client.samples(name))["id"]
    found = document(capsys, 0, "sample", "show", sample_id)
    assert found["provenance"]["guidance"]["rule"] == "steer"
    assert run(["sample", "show", sample_id]) == 0
    assert "provenance.guidance.eta" in capsys.readouterr().out


@pytest.mark.parametrize(("identical", "code"), [(True, 0), (False, 1)])
def test_a_replay_that_differs_is_1(
    identical: bool,
    code: int,
    submit: list[str],
    worker: conftest.Worker,
    client: Client,
    name: str,
    capsys: Captured,
) -> None:
    worker.make(document(capsys, 0, *submit)["id"], ["x", "y", "z"])
    sample_id = next(client.samples(name))["id"]
    scores = {"expected_score": None, "made_score": -1.25}
    difference = None if identical else {"position": 0, "expected": "z", "made": "q", **scores}
    result = {
        "identical": identical,
        "text": "q",
        "expected": "z",
        "first_difference": difference,
    }
    with worker.answering(result):
        assert document(capsys, code, "sample", "replay", sample_id) == result
        assert run(["sample", "replay", sample_id]) == code
        parted = "At token 0: 'z' (not plausible) was stored, 'q' (score -1.250) was made."
        assert (parted in capsys.readouterr().out) == (not identical)


def test_tables_of_every_list(
    submit: list[str], worker: conftest.Worker, name: str, capsys: Captured
) -> None:
    assert run(submit) == 0
    for words in ("dataset list", "model list", "job list", "token list"):
        assert run(words.split()) == 0
    out = capsys.readouterr().out
    assert name in out
    assert "tests" in out


def test_previews_and_explanations(
    submit: list[str], worker: conftest.Worker, client: Client, name: str, capsys: Captured
) -> None:
    preview = {
        "guided": [{"seed": 1, "text": "a [bold]guided[/] text"}],
        "unguided": [{"seed": 1, "text": "a plain text"}],
    }
    with worker.answering(preview):
        assert run(["job", "preview", *submit[2:]]) == 0
    out = capsys.readouterr().out
    assert "a [bold]guided[/] text" in out
    worker.make(document(capsys, 0, *submit)["id"], ["x", "y", "z"])
    sample_id = next(client.samples(name))["id"]
    token = {
        "token": "tok",
        **dict.fromkeys(("expert", "score"), -0.5),
        **dict.fromkeys(("base", "negative", "center")),
        "unguided": "other",
        "survivors": 3,
    }
    with worker.answering({"sample": sample_id, "tokens": [token]}):
        assert run(["sample", "explain", sample_id]) == 0
    shown = capsys.readouterr().out
    assert "other" in shown
    assert "adapters" not in shown
    steered = {**token, "verdict_head": None, "adapters": 0.25}
    with worker.answering({"sample": sample_id, "tokens": [steered]}):
        assert run(["sample", "explain", sample_id]) == 0
    shown = capsys.readouterr().out
    assert "adapters" in shown
    assert "0.25" in shown
    assert "verdict_head" not in shown


def test_reviews(submit: list[str], worker: conftest.Worker, name: str, capsys: Captured) -> None:
    job_id = document(capsys, 0, *submit)["id"]
    worker.make(job_id, ["x", "y", "z"])
    assert document(capsys, 0, "review", "push", job_id) == {"owed": 3}
    assert document(capsys, 0, "review", "stats", name)["waiting"] == 3
    refused = document(capsys, 4, "review", "sync", name)
    assert "Label Studio" in refused["error"]["detail"]


def test_tokens_come_and_go(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    made = document(capsys, 0, "token", "create", "bob")
    assert document(capsys, 0, "token", "revoke", made["id"])["name"] == "bob"
    monkeypatch.setenv("FACTORY_TOKEN", made["token"])
    assert document(capsys, 4, "dataset", "list")["error"]["status"] == 401


def test_budgets_come_and_go(name: str, submit: list[str], capsys: Captured) -> None:
    """With one in the way a job is refused, and says what is left."""
    made = document(capsys, 0, "budget", "set", "1", "--dataset", name)
    assert (made["dataset"], made["unit"], made["left"]) == (name, "samples", 1)
    refused = document(capsys, 4, *submit)
    assert "Ask for at most 1" in refused["error"]["detail"]
    assert run(["budget", "list"]) == 0
    assert f"dataset {name}" in capsys.readouterr().out
    document(capsys, 0, "budget", "remove", made["id"])
    document(capsys, 0, *submit)
    document(capsys, 3, "budget", "remove", made["id"])


def test_the_first_token_is_written_to_the_database(
    settings: Settings, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTORY_TOKEN", "")
    monkeypatch.setenv("FACTORY_DATABASE_URL", settings.database_url)
    made = document(capsys, 0, "token", "create", "first", "--direct")
    monkeypatch.setenv("FACTORY_TOKEN", made["token"])
    assert document(capsys, 0, "token", "list")["items"][0]["name"] == "first"


@pytest.mark.parametrize(
    "words", ["dataset show nothing", f"job show {UNKNOWN}", f"sample show {UNKNOWN}"]
)
def test_what_is_not_there_is_3(words: str, capsys: Captured) -> None:
    assert document(capsys, 3, *words.split())["error"]["status"] == 404


def test_a_proxy_is_not_asked_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    for variable in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert "items" in document(capsys, 0, "dataset", "list")


def test_a_taken_name_is_4(name: str) -> None:
    assert run(["dataset", "create", name, "--prompt", "x"]) == 4


def test_a_database_is_migrated_from_nothing(
    empty_postgres_url: str, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTORY_DATABASE_URL", empty_postgres_url)
    first = document(capsys, 0, "migrate")
    assert first["version"]
    assert document(capsys, 0, "migrate") == first


def test_the_process_as_it_is_installed(name: str, tmp_path: Path) -> None:
    """Standard input as the import, stdout closed early as `head` does."""
    factory = [sys.executable, "-m", "factory"]
    lines = "".join(json.dumps({"text": f"text {n}"}) + "\n" for n in range(50))
    done = subprocess.run(
        [*factory, "dataset", "import", name, "-", "--json"],
        input=lines,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["imported"] == 50
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        ended = subprocess.run(
            [*factory, "dataset", "list"], stdout=closed, stderr=subprocess.PIPE, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr == b""
