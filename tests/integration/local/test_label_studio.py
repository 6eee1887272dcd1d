"""Installing Label Studio: what can be tested without the minutes that it takes."""

import pytest

from factory.errors import StackError
from factory.local import label_studio


def test_an_installation_that_fails_shows_why(tmp_path):
    venv, log = tmp_path / "venv", tmp_path / "install.log"
    with pytest.raises(StackError, match=r"(?s)could not be installed.*ERROR: "):
        label_studio.ensure_venv(venv, log, env={"PIP_NO_INDEX": "1"})
    assert not label_studio.is_installed(venv)


def test_a_half_finished_installation_does_not_count(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/label-studio").touch()
    assert not label_studio.is_installed(tmp_path)


def test_a_server_whose_environment_is_missing_says_so(tmp_path):
    server = label_studio.Server(tmp_path / "data", tmp_path / "venv", 1, "password", "token")
    with pytest.raises(StackError, match="not installed"):
        server.prepare()
