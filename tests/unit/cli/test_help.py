"""Every command explains itself: help, examples that can be typed, `--json`."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from factory.cli.app import cli
from factory.cli.command import Command, Wanted


def commands(group: click.Group, path: str = "factory") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


ALL = dict(commands(cli))
EXAMPLES = [
    (path, example)
    for path, command in ALL.items()
    if isinstance(command, Command)
    for example in command.examples
]


def test_the_contract_names_these_commands() -> None:
    assert set(ALL) >= {
        *(
            f"factory {name}"
            for name in ["up", "demo", "serve", "worker", "beat", "migrate", "doctor"]
        ),
        *(
            f"factory dataset {name}"
            for name in ["create", "list", "show", "import", "export", "evaluate"]
        ),
        *(f"factory model {name}" for name in ["add", "list", "train"]),
        *(
            f"factory job {name}"
            for name in ["preview", "submit", "list", "show", "watch", "cancel", "pause", "resume"]
        ),
        *(f"factory sample {name}" for name in ["show", "replay", "explain", "neighbors"]),
        *(f"factory review {name}" for name in ["sync", "stats", "push"]),
        *(f"factory token {name}" for name in ["create", "list", "revoke"]),
    }


@pytest.mark.parametrize("path", ALL)
def test_help_has_a_summary_examples_and_json(path: str) -> None:
    command = ALL[path]
    assert isinstance(command, Command)
    context = click.Context(command, info_name=path)
    text = command.get_help(context)
    assert command.help
    assert "--json" in text
    assert "Examples:" in text
    assert all(example in text for example in command.examples)
    assert command.examples


@pytest.mark.parametrize(("path", "example"), EXAMPLES)
def test_examples_are_accepted(
    path: str, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("job.yaml", "real.ndjson"):
        (tmp_path / name).touch()
    words = shlex.split(example.split(" | ")[-1])
    words = words[words.index("factory") :]
    depth = len(path.split())
    assert words[:depth] == path.split()
    root = click.Context(cli, obj=Wanted())
    ALL[path].make_context(path, words[depth:], parent=root)


def test_no_example_is_for_another_program() -> None:
    assert all("factory " in example for _, example in EXAMPLES)
