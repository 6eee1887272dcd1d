"""Exit codes: one map from the error tree, and the ways a command can be wrong by itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from factory import errors
from factory.cli.app import run
from factory.cli.command import exit_code
from factory.cli.processes import worker_command
from factory.errors import FactoryError
from factory.settings import Settings


def tree(kind: type[FactoryError]) -> list[type[FactoryError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in tree(child))]


@pytest.fixture(autouse=True)
def _no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "TOKEN", "DATABASE_URL", "BROKER_URL", "PORT"):
        monkeypatch.delenv(f"FACTORY_{name}", raising=False)
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.FactoryError, 1),
        (errors.StackError, 1),
        (errors.NotFound, 3),
        (errors.Invalid, 4),
        (errors.TooLarge, 4),
        (errors.Unauthorized, 4),
        (errors.Forbidden, 4),
        (errors.Conflict, 4),
        (errors.ModelError, 4),
        (errors.Unavailable, 5),
    ],
)
def test_errors_have_their_codes(kind: type[FactoryError], code: int) -> None:
    assert exit_code(kind("")) == code


def test_no_error_of_the_tree_looks_like_success_or_usage() -> None:
    assert {exit_code(kind("")) for kind in tree(FactoryError)} == {1, 3, 4, 5}


@pytest.mark.parametrize(
    "words", ["nonsense", "job", "job nonsense", "job show", "job list --limit 0", "worker tpu"]
)
def test_wrong_usage_is_2(words: str) -> None:
    assert run(words.split()) == 2


def test_wrong_usage_is_a_document_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["job", "list", "--json", "--limit", "x"]) == 2
    problem = json.loads(capsys.readouterr().out)["error"]
    assert problem["errors"][0]["field"] == "limit"


def test_nothing_running_is_5_with_a_mend(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dataset", "list"]) == 5
    assert "`factory up`" in capsys.readouterr().err


def test_an_address_without_a_server_is_5(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FACTORY_URL", "http://127.0.0.1:9")
    assert run(["dataset", "list", "--json"]) == 5
    problem = json.loads(capsys.readouterr().out)["error"]
    assert problem["status"] == 503
    assert "127.0.0.1:9" in problem["detail"]


def test_a_stack_that_was_killed_is_5(tmp_path: Path) -> None:
    addresses = {"url": "http://127.0.0.1:9", "token": "sf_x"}
    (tmp_path / "stack.json").write_text(json.dumps({"addresses": addresses}))
    assert run(["dataset", "list"]) == 5


@pytest.mark.parametrize("words", ["serve", "worker gpu", "worker cpu", "beat", "migrate"])
def test_a_process_without_its_settings_is_4(
    words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(words.split()) == 4
    assert "FACTORY_DATABASE_URL" in capsys.readouterr().err


def test_a_wrong_setting_is_4_and_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FACTORY_PORT", "many")
    assert run(["dataset", "list"]) == 4
    assert "FACTORY_PORT" in capsys.readouterr().err


def test_an_unreachable_database_is_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTORY_DATABASE_URL", "postgresql+psycopg://x@127.0.0.1:9/x")
    assert run(["migrate"]) == 5


def test_a_worker_is_celery_on_the_queue_of_its_kind() -> None:
    command = worker_command("gpu", Settings())
    assert command[:5] == [sys.executable, "-m", "celery", "--app", "workers.gpu"]
    assert command[command.index("--queues") + 1] == "gpu"
    assert command[command.index("--concurrency") + 1] == "1"


@pytest.mark.parametrize(
    ("kind", "device", "start"),
    [
        ("gpu", "cuda", "spawn"),
        ("gpu", "cuda:1", "spawn"),
        ("gpu", "cpu", "fork"),
        ("cpu", "cuda", "fork"),
    ],
)
def test_children_that_may_touch_cuda_are_not_forked(kind: str, device: str, start: str) -> None:
    command = worker_command(kind, Settings(device=device))
    assert command[command.index("--pool-start-method") + 1] == start


def test_the_command_line_loads_neither_torch_nor_the_server_side() -> None:
    heavy = ("torch", "numpy", "transformers", "label_studio_sdk", "flask", "sqlalchemy", "celery")
    code = f"import sys, factory.cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
