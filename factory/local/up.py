"""`factory up`: the stack in the foreground, its progress on the terminal, stopped by signals."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

from rich.console import Console
from rich.markup import escape

from factory.local.stack import Addresses, Stack
from factory.local.supervisor import Event
from factory.settings import Settings

TITLES = {
    "postgres": "Postgres",
    "redis": "Redis",
    "migrations": "Database migrations",
    "label-studio": "Label Studio",
    "web": "Web",
    "gpu-worker": "GPU worker",
    "cpu-worker": "CPU worker",
    "beat": "Beat",
    "stack": "Stack",
}
STYLES = {"ready": "green", "died": "red", "restarted": "yellow", "installing": "cyan"}
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PRINTED = ("url", "token", "label_studio_url", "label_studio_token", "database_url", "broker_url")


class Stopped(BaseException):
    """A signal asked this process to stop. Like KeyboardInterrupt, no error."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within the block the first SIGINT, SIGTERM or SIGHUP raises `Stopped`, later ones wait.

    The block's own `finally` clauses can thus end what it started without being cut short.
    Leaving the block by `Stopped` is its normal end.
    """
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}

    def stop(number: int, _frame: FrameType | None) -> None:
        for each in STOP_SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(signal.Signals(number).name)

    try:
        for number in STOP_SIGNALS:
            signal.signal(number, stop)
        yield
    except Stopped:
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """Shows the stack's events on stderr, one line each."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)

    def __call__(self, event: Event) -> None:
        if event.state == "stopping":
            return  # "stopped" follows within seconds
        title = TITLES.get(event.part, event.part)
        what = event.detail if event.state == "note" else event.state
        detail = f" ({event.detail})" if event.detail and event.state != "note" else ""
        took = f" {event.seconds:.1f} s" if event.seconds is not None else ""
        style = STYLES.get(event.state, "dim")
        self._console.print(f"[{style}]{title}[/] {escape(what + detail + took)}")


def run_up(settings: Settings, json_output: bool = False, *, review: bool = True) -> None:
    """Bring the stack up, print where it is, and stay until a signal comes; then stop it all.

    `json_output` prints one line of JSON on stdout when all is ready. Raises `FactoryError`
    when the stack cannot be started.
    """
    with stopped_by_signals():
        stack = Stack(settings, Progress(), review=review)
        try:
            addresses = stack.start()
            print_json(addresses) if json_output else print_addresses(addresses)
            stack.wait()
        finally:
            stack.stop()


def print_json(addresses: Addresses) -> None:
    """One line of JSON on stdout."""
    values = asdict(addresses)
    sys.stdout.write(json.dumps({name: values[name] for name in PRINTED}) + "\n")
    sys.stdout.flush()


def print_addresses(addresses: Addresses) -> None:
    """The addresses and the logins, for a person."""
    lines = [("Dashboard", addresses.url), ("  log in with", addresses.token)]
    if addresses.label_studio_url:
        lines.append(("Label Studio", addresses.label_studio_url))
    if addresses.label_studio_username:
        login = f"{addresses.label_studio_username} / {addresses.label_studio_password}"
        lines.append(("  log in with", login))
    lines += [("Database", addresses.database_url), ("Broker", addresses.broker_url)]
    console = Console(highlight=False, soft_wrap=True)
    for title, value in lines:
        console.print(f"[bold]{title:<14}[/] {escape(value)}")
    console.print("Ctrl-C stops everything.")
