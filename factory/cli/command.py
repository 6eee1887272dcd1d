"""What every command has: examples in its help, `--json`, and one map from errors to exit codes.

0  done
1  failed: a watched job that failed or is partial, a replay that is not identical
2  usage: no such command, option or value
3  not found
4  refused: by validation, by authentication, or because it clashes with what is there
5  unreachable: the factory, its database or its broker
130  stopped by Ctrl-C
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from factory.errors import (
    Conflict,
    DecodingError,
    FactoryError,
    Forbidden,
    Invalid,
    NotFound,
    Unauthorized,
    Unavailable,
)

FAILED = 1
USAGE = 2
INTERRUPTED = 130

EXIT_CODES: Mapping[type[FactoryError], int] = {
    NotFound: 3,
    Invalid: 4,
    Unauthorized: 4,
    Forbidden: 4,
    Conflict: 4,
    DecodingError: 4,
    Unavailable: 5,
}


def exit_code(error: FactoryError) -> int:
    """The exit code of an error: that of its nearest class in the tree; 1 for the others."""
    known = (EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)
    return next(known, FAILED)


@dataclass
class Wanted:
    """How the person or program that runs the command wants its answer."""

    json: bool = False


def wanted() -> Wanted:
    """What was asked of the command that runs now."""
    found = click.get_current_context().find_root().obj
    if not isinstance(found, Wanted):
        raise RuntimeError("The command was not started by `factory.cli.app`.")
    return found


def _note_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.find_root().obj.json = True


class Command(click.Command):
    """A command with examples and `--json`."""

    def __init__(self, *args: Any, examples: Sequence[str] = (), **options: Any) -> None:
        super().__init__(*args, **options)
        self.examples = tuple(examples)
        self.params.append(
            click.Option(
                ["--json"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_note_json,
                help="Answer with one JSON document on stdout.",
            )
        )

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, as written."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")


class Group(click.Group):
    """Commands about one thing, in the order in which they are written."""

    command_class = Command
    group_class = type

    def list_commands(self, ctx: click.Context) -> list[str]:
        """As written, not sorted: the order is that of use."""
        return list(self.commands)
