"""FACTORY_HOME: secrets, ports and where things lie."""

import os
import socket
from contextlib import ExitStack

import pytest

from factory.errors import StackError
from factory.local import home as homes


def test_secrets_are_made_once_and_kept_private(tmp_path):
    home = homes.open_home(tmp_path / "home")
    made = homes.load_secrets(home)
    assert homes.load_secrets(home) == made
    assert home.secrets.stat().st_mode & 0o077 == 0
    assert len(set(vars(made).values())) == len(vars(made))


def test_secrets_differ_between_homes(tmp_path):
    one, other = (homes.load_secrets(homes.open_home(tmp_path / n)) for n in ("one", "other"))
    assert one.token != other.token


def test_a_secret_added_by_a_newer_version_leaves_the_others(tmp_path):
    home = homes.open_home(tmp_path)
    homes.write_json(home.secrets, {"token": "kept"})
    assert homes.load_secrets(home).token == "kept"


def test_ports_are_kept_while_they_are_free(tmp_path):
    home = homes.open_home(tmp_path)
    first = homes.choose_ports(home)
    assert homes.choose_ports(home) == first
    with socket.create_server(("127.0.0.1", first.redis)):
        second = homes.choose_ports(home)
    assert second.redis != first.redis
    assert second.postgres == first.postgres


def test_two_running_homes_have_ports_of_their_own(tmp_path):
    one = homes.choose_ports(homes.open_home(tmp_path / "one"))
    other = homes.open_home(tmp_path / "other")
    homes.write_json(other.ports, vars(one))  # as if both had picked the same
    with ExitStack() as listening:
        for port in vars(one).values():
            listening.enter_context(socket.create_server(("127.0.0.1", port)))
        assert not set(vars(one).values()) & set(vars(homes.choose_ports(other)).values())


def test_the_wanted_web_port_is_used_or_refused(tmp_path):
    home = homes.open_home(tmp_path)
    wanted = homes.free_port()
    assert homes.choose_ports(home, wanted).web == wanted
    with (
        socket.create_server(("127.0.0.1", wanted)),
        pytest.raises(StackError, match="FACTORY_PORT"),
    ):
        homes.choose_ports(home, wanted)


def test_a_home_that_cannot_be_made_says_what_to_do(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match="Set FACTORY_HOME"):
        homes.open_home(tmp_path / "file" / "home")


def test_a_broken_state_file_is_named(tmp_path):
    home = homes.open_home(tmp_path)
    home.secrets.write_text("{")
    with pytest.raises(StackError, match=r"secrets\.json cannot be read"):
        homes.load_secrets(home)


def test_others_may_pass_through_the_home_but_not_list_it(tmp_path):
    home = homes.open_home(tmp_path / "home")
    assert os.stat(home.root).st_mode & 0o777 == 0o711
