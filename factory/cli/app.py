"""The `factory` command: all its groups, and how it ends."""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from factory import __version__
from factory.cli import budgets, datasets, jobs, models, output, processes, reviews, samples, tokens
from factory.cli.command import FAILED, INTERRUPTED, USAGE, Group, Wanted, exit_code
from factory.errors import FactoryError, FieldError, Invalid

THIS_MACHINE = ("127.0.0.1", "localhost")


@click.group(
    cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="factory")
def cli() -> None:
    """Steer language models to make the training data you lack.

    Start with `factory demo` to see the whole loop, or `factory up` to work.
    """


for _command in (
    *processes.COMMANDS,
    datasets.group,
    models.group,
    jobs.group,
    samples.group,
    reviews.group,
    tokens.group,
    budgets.group,
):
    cli.add_command(_command)


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code (see `factory.cli.command`)."""
    _reach_this_machine_directly()
    sys.exit(run(args))


def _reach_this_machine_directly() -> None:
    """Whatever proxy the environment names, for this process and all it starts: a factory on this
    machine talks to itself, which no proxy elsewhere can pass on."""
    beyond = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    every = ",".join(filter(None, (beyond, *THIS_MACHINE)))
    os.environ.update(no_proxy=every, NO_PROXY=every)


def run(args: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    wanted = Wanted()
    try:
        result = cli.main(args, prog_name="factory", standalone_mode=False, obj=wanted)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        _explain(error, wanted)
        return USAGE
    except FactoryError as error:
        output.refuse(error, as_json=wanted.json)
        return exit_code(error)
    except BrokenPipeError:  # the reader of our answer has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED


def _explain(error: click.ClickException, wanted: Wanted) -> None:
    if wanted.json:
        name = error.param.name if isinstance(error, click.BadParameter) and error.param else ""
        reasons = [FieldError(name or "", error.format_message())]
        output.refuse(Invalid(error.format_message(), reasons), as_json=True)
    else:
        error.show()
