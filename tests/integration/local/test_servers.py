"""The embedded Postgres and Redis, for real."""

import sys

import psycopg
import pytest
from redis import AuthenticationError, Redis

from factory.errors import StackError
from factory.local import home, postgres, process, redis


def plain(url: str) -> str:
    return url.replace("+psycopg", "")


def test_postgres_serves_its_database_with_pgvector(postgres_server):
    with psycopg.connect(plain(postgres_server.url())) as connection:
        near = connection.execute("SELECT '[1,2]'::vector <-> '[1,4]'::vector").fetchone()
        version = connection.execute("SHOW server_version").fetchone()
    assert near == (2.0,)
    assert version[0].startswith("18")


def test_the_role_is_no_superuser(postgres_server):
    with psycopg.connect(plain(postgres_server.url())) as connection:
        row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
        assert row.fetchone() == (False,)


def test_postgres_wants_the_password(postgres_server):
    url = plain(postgres_server.url()).replace(":test@", ":wrong@")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url)


def test_rows_outlive_a_killed_postgres(service_folder):
    log = service_folder / "killed.log"
    server = postgres.Server(service_folder / "killed", home.free_port(), "secret")
    with server.running(log), psycopg.connect(plain(server.url())) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
        connection.commit()
        postmaster = int((server.directory / "data/postmaster.pid").read_text().split()[0])
        process.kill_group(postmaster)
    with server.running(log), psycopg.connect(plain(server.url())) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
        method = connection.execute("SHOW recovery_init_sync_method").fetchone()
    assert method == ("syncfs" if sys.platform == "linux" else "fsync",)  # one file at a time


def test_a_foreign_database_password_is_explained(postgres_server):
    stranger = postgres.Server(postgres_server.directory, postgres_server.port, "wrong")
    with pytest.raises(StackError, match=r"secrets\.json does not fit"):
        stranger.ready()


def test_a_running_cluster_is_not_started_twice(postgres_server):
    with pytest.raises(StackError, match=r"running in .* already"):
        postgres_server.prepare()


def test_a_cluster_of_another_version_is_refused(service_folder):
    server = postgres.Server(service_folder / "old", home.free_port(), "secret")
    server.prepare()
    (server.directory / "data/PG_VERSION").write_text("15\n")
    with pytest.raises(StackError, match="made by Postgres 15"):
        server.prepare()


def test_a_dead_servers_pid_file_does_not_stop_the_next(service_folder):
    server = postgres.Server(service_folder / "stale", home.free_port(), "secret")
    server.prepare()
    stale = server.directory / "data/postmaster.pid"
    stale.write_text("1\n")  # a live process, but no Postgres of ours
    with server.running(service_folder / "stale.log"):
        assert stale.read_text().split()[0] != "1"


def test_queued_messages_outlive_a_killed_redis(service_folder):
    log = service_folder / "killed-redis.log"
    server = redis.Server(service_folder / "killed redis", home.free_port(), "secret")
    with server.running(log), Redis.from_url(server.url()) as client:
        client.rpush("queue", *range(200))
        process.kill_group(client.info("server")["process_id"])
    with server.running(log), Redis.from_url(server.url()) as client:
        assert client.llen("queue") == 200


def test_redis_wants_the_password(redis_server):
    with pytest.raises(AuthenticationError), Redis(port=redis_server.port) as client:
        client.ping()


def test_the_redis_password_is_in_a_private_file_and_no_command_line(tmp_path):
    server = redis.Server(tmp_path, home.free_port(), "open-sesame")
    assert "open-sesame" not in " ".join(server.prepare().argv)
    assert "open-sesame" in (tmp_path / "redis.conf").read_text()
    assert (tmp_path / "redis.conf").stat().st_mode & 0o077 == 0


def test_a_module_gets_its_own_migrated_database(postgres_url):
    with psycopg.connect(plain(postgres_url)) as connection:
        assert connection.execute("SELECT count(*) FROM datasets").fetchone() == (0,)
