"""The doctor finds what is wrong and says how to mend it."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psycopg
import pytest

from factory import circuits
from factory.db import Database
from factory.local import doctor
from factory.local import home as homes
from factory.local.doctor import Check
from factory.local.supervisor import Supervisor
from factory.settings import Settings


@pytest.fixture
def home(tmp_path):
    return homes.open_home(tmp_path / "home")


def look(home, **settings) -> dict[str, Check]:
    found = doctor.checks(Settings(home=home.root, **settings))
    return {check.name: check for check in found}


def test_a_stack_that_does_not_run_is_said_so(home):
    found = look(home)["Local stack"]
    assert not found.ok
    assert "make up" in found.mend


def test_good_services_are_well_and_then_no_local_stack_is_missed(home, postgres_url, redis_url):
    found = look(home, database_url=postgres_url, broker_url=redis_url)
    assert found["Database"].ok
    assert "pgvector 0.8" in found["Database"].detail
    assert found["Migrations"].ok
    assert found["Broker"].ok
    assert "Local stack" not in found


def test_the_addresses_of_the_running_stack_are_used(home, postgres_url):
    homes.write_json(home.stack, {"addresses": {"database_url": postgres_url}})
    assert look(home)["Database"].ok


def test_a_database_without_tables_wants_migrating(home, empty_postgres_url):
    found = look(home, database_url=empty_postgres_url)["Migrations"]
    assert (found.ok, found.mend) == (False, "Run `factory migrate`.")


def test_a_database_without_pgvector_is_found(home, empty_postgres_url, postgres_server):
    name = empty_postgres_url.rsplit("/", 1)[1]
    with postgres_server.connect_as_admin(name) as connection:
        connection.execute("DROP EXTENSION vector")
    found = look(home, database_url=empty_postgres_url)["Database"]
    assert not found.ok
    assert "pgvector is not installed" in found.detail


def test_services_that_are_away_are_named_without_their_passwords(home):
    port = homes.free_port()
    away = {
        "database_url": f"postgresql+psycopg://me:open-sesame@127.0.0.1:{port}/x",
        "broker_url": f"redis://:open-sesame@127.0.0.1:{port}/0",
        "label_studio_url": f"http://127.0.0.1:{port}",
    }
    found = look(home, **away)
    for name in ("Database", "Migrations", "Broker", "Label Studio"):
        assert not found[name].ok
        assert found[name].mend
    assert "open-sesame" not in repr(found)


def test_a_way_that_fails_is_named_with_since_when(home, postgres_url):
    database = Database(postgres_url)
    with database.transaction() as session:
        circuits.failed(session, circuits.LABEL_STUDIO, circuits.Turn(), "503: busy", first=5)
    found = look(home, database_url=postgres_url, label_studio_url="http://127.0.0.1:1")
    way = found["Way to Label Studio"]
    with database.transaction() as session:
        circuits.succeeded(session, circuits.LABEL_STUDIO, circuits.Turn())
    database.close()
    assert not way.ok
    assert re.match(r"since 20\d\d-.*Z: 503: busy\. Samples are made meanwhile", way.detail)
    assert "follows by itself" in way.mend


def test_a_child_that_died_is_reported_with_its_last_words(home):
    death = {"at": "2026-01-02T03:04:05+00:00", "how": "killed by SIGKILL after 3 s"}
    gone = {"pid": os.getpid(), "created": time.time() - 9e6, "restarts": 2, "last_death": death}
    homes.write_json(home.stack, {"supervisor": gone, "children": {"gpu-worker": gone}})
    checked = look(home)
    assert not checked["Supervisor"].ok
    found = checked["Process gpu-worker"]
    assert not found.ok
    assert "restarted 2 times" in found.detail
    assert "SIGKILL" in found.detail
    assert str(home.logs / "gpu-worker.log") in found.mend


def test_a_running_supervisor_is_well(home):
    children = Supervisor(home, lambda _: None)
    children.publish({})
    try:
        assert look(home)["Supervisor"].ok
    finally:
        children.stop([])


def test_a_taken_port_is_found(home, postgres_server):
    found = look(home, port=postgres_server.port)["Web port"]
    assert not found.ok
    assert "FACTORY_PORT" in found.mend


def test_secrets_that_others_can_read_are_found(home):
    homes.load_secrets(home)
    assert look(home)["Secrets"].ok
    home.secrets.chmod(0o644)
    assert "chmod 600" in look(home)["Secrets"].mend


def test_a_missing_model_folder_is_found(home):
    found = look(home, model_roots="/no/such/folder")["Model folder /no/such/folder"]
    assert not found.ok


def test_a_broken_state_file_hides_no_other_check(home):
    home.stack.write_text("{")
    assert {"Local stack", "GPU"} <= look(home).keys()


def deep(home, **settings) -> tuple[int, dict]:
    """The exit code of `factory doctor --deep --json`, and what it printed."""
    env = {**os.environ, "FACTORY_HOME": str(home.root), **settings}
    argv = (sys.executable, "-m", "factory", "doctor", "--deep", "--json")
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)


def test_the_rows_of_a_database_are_checked_and_the_wrong_one_is_named(home, postgres_url):
    code, found = deep(home, FACTORY_DATABASE_URL=postgres_url)
    assert (code, found) == (0, {"ok": True, "violations": [], "unchecked": []})

    event = "INSERT INTO webhook_events (id, digest, action, annotation_ids, payload) VALUES "
    values = "('01890000-0000-7000-8000-000000000001', 'x', 'x', '{}', '{}')"
    with psycopg.connect(postgres_url.replace("+psycopg", "")) as connection:
        connection.execute(event + values)
        connection.execute(
            "INSERT INTO datasets (id, name, prompt, label_studio_project) "
            "VALUES (gen_random_uuid(), 'reviewed', 'p', 3)"
        )
    code, found = deep(home, FACTORY_DATABASE_URL=postgres_url)
    assert code == 1
    [violation] = found["violations"]
    assert violation["invariant"] == "C"
    assert violation["row"] == "webhook event 01890000-0000-7000-8000-000000000001"
    assert "Label Studio" in found["unchecked"][0]

    url, key = "http://127.0.0.1:1", "k" * 40
    review = {"FACTORY_LABEL_STUDIO_URL": url, "FACTORY_LABEL_STUDIO_API_KEY": key}
    code, found = deep(home, FACTORY_DATABASE_URL=postgres_url, **review)
    assert (code, len(found["violations"])) == (1, 1)
    assert "refused" in found["unchecked"][0]


def test_without_a_factory_no_row_can_be_checked(home):
    code, found = deep(home)
    assert code == 4
    assert "FACTORY_DATABASE_URL" in found["error"]["detail"]


class _Answers(BaseHTTPRequestHandler):
    """As a Label Studio that takes every token."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


def test_a_proxy_for_the_outside_is_not_asked_for_this_machine(home):
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            **os.environ,
            "FACTORY_HOME": str(home.root),
            "FACTORY_LABEL_STUDIO_URL": f"http://127.0.0.1:{server.server_port}",
            "FACTORY_LABEL_STUDIO_API_KEY": "key",
            "http_proxy": "http://127.0.0.1:9",  # nobody listens there
            "no_proxy": "intranet.example",
        }
        command = [sys.executable, "-m", "factory", "doctor", "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        server.shutdown()
    found = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert found["Label Studio"]["ok"], found["Label Studio"]
