"""A factory that was saved in the middle of its work goes on from there elsewhere."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from factory import invariants, models, shards
from factory.db import Database
from factory.local import home as homes
from factory.local import postgres
from factory.settings import Settings
from factory.tables import Job
from workers.gpu_worker import GpuWorker

from .factory_floor import Floor


def factory(settings: Settings, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code of `factory … --json` and what it printed."""
    given = {"FACTORY_HOME": str(settings.home), "FACTORY_DATABASE_URL": settings.database_url}
    done = subprocess.run(
        (sys.executable, "-m", "factory", *arguments, "--json"),
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture
def saved(floor: Floor, tmp_path: Path) -> tuple[Path, Job]:
    """A backup made after one of a job's three shards was done, and another begun."""
    job = floor.submit(9, 3, audit=0, negatives={"sources": {"synthetic": 1}})
    first, second, _ = floor.shards(job)
    GpuWorker(floor.settings, floor.database).run_shard(first.id)
    with floor.database.transaction() as session:
        assert shards.claim(session, second.id, "one that is left behind", 1) is not None
    file = tmp_path / "saved.tar"
    code, told = factory(floor.settings, "backup", str(file))
    assert code == 0, told
    assert told["elsewhere"] == []
    return file, job


def test_a_restored_factory_goes_on(
    saved: tuple[Path, Job], floor: Floor, empty_postgres_url: str, tmp_path: Path
) -> None:
    file, job = saved
    change = {"home": tmp_path / "elsewhere", "database_url": empty_postgres_url}
    here = floor.settings.model_copy(update=change)
    code, told = factory(here, "restore", str(file))
    assert code == 0, told
    before = floor.samples(job)

    restored = Floor(here, Database(empty_postgres_url), floor.dataset, floor.model)
    assert [s.id for s in restored.samples(job)] == [s.id for s in before]
    with restored.database.transaction() as session:
        pair = models.get(session, floor.model.name)
    assert Path(pair.base).is_relative_to(here.models_dir)
    gpu = GpuWorker(here, restored.database)
    with restored.database.transaction() as session:
        session.execute(text("UPDATE shards SET lease_until = now() - interval '1 s'"))
        assert shards.reap(session, 3) == [job.id]
    for shard in restored.shards(job):
        gpu.run_shard(shard.id)
    assert restored.job(job).state == "succeeded"
    assert [s.ordinal for s in restored.samples(job)] == list(range(9))
    ask = restored.ask("replay", sample=str(before[0].id))
    gpu.desk.serve_all()
    assert (restored.answer(ask).result or {})["identical"] is True
    with restored.database.snapshot() as session:
        assert invariants.violations(session) == []
    restored.database.close()

    code, refused = factory(here, "restore", str(file))
    assert code == 4
    assert "empty" in refused["error"]["detail"]


def test_it_goes_into_the_embedded_database_of_a_new_home(
    saved: tuple[Path, Job], floor: Floor, service_folder: Path
) -> None:
    file, job = saved
    home = homes.open_home(service_folder / "restored")
    here = Settings(home=home.root)
    with homes.locked(home):
        code, refused = factory(here, "restore", str(file))
    assert code == 4
    assert "running" in refused["error"]["detail"]
    code, told = factory(here, "restore", str(file))
    assert code == 0, told
    ports, secrets = homes.choose_ports(home), homes.load_secrets(home)
    server = postgres.Server(home.postgres, ports.postgres, secrets.postgres_password)
    with server.running(home.logs / "postgres.log"):
        database = Database(server.url())
        restored = Floor(here, database, floor.dataset, floor.model)
        assert [s.id for s in restored.samples(job)] == [s.id for s in floor.samples(job)]
        database.close()


def test_what_is_no_backup_and_what_would_be_overwritten_is_refused(
    saved: tuple[Path, Job], floor: Floor, tmp_path: Path
) -> None:
    file, _ = saved
    code, refused = factory(floor.settings, "backup", str(file))
    assert (code, "exists" in refused["error"]["detail"]) == (4, True)
    (tmp_path / "text").write_text("no tar")
    with tarfile.open(tmp_path / "other.tar", "w") as tar:
        tar.add(tmp_path / "text", "text")
    for other in ("text", "other.tar", "missing"):
        code, refused = factory(floor.settings, "restore", str(tmp_path / other))
        assert code == 4
        assert "backup" in refused["error"]["detail"]
    code, refused = factory(floor.settings, "backup", str(tmp_path / "no" / "folder.tar"))
    assert (code, "cannot be written" in refused["error"]["detail"]) == (1, True)
