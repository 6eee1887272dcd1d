"""A database that is cut off, that does not answer a COMMIT, or that can take nothing more."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from apiflask import APIFlask
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from factory import datasets, invariants, jobs, samples, shards, tokens
from factory.db import Database
from factory.errors import LeaseLost, Unavailable
from factory.local import postgres
from factory.samples import MadeBy
from factory.settings import Settings
from factory.spec import ReviewSpec
from factory.tables import Dataset, Job, Sample
from factory.web import create_app

from ..integration.stages.world import World, made, world_in
from .proxy import Proxy

TOKEN = "sf_the-token-of-these-tests"


@pytest.fixture
def proxy(postgres_server: postgres.Server) -> Iterator[Proxy]:
    with Proxy(postgres_server.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def direct(postgres_url: str) -> Iterator[Database]:
    """The database itself."""
    database = Database(postgres_url)
    yield database
    database.close()


@pytest.fixture
def database(
    postgres_url: str, postgres_server: postgres.Server, proxy: Proxy
) -> Iterator[Database]:
    """The same database, through the proxy."""
    database = Database(through(postgres_url, postgres_server, proxy))
    yield database
    database.close()


def through(url: str, server: postgres.Server, proxy: Proxy) -> str:
    return url.replace(f":{server.port}/", f":{proxy.port}/")


@pytest.fixture
def world(direct: Database) -> World:
    return world_in(direct)


def add(session: Session, name: str) -> Dataset:
    return session.scalar(select(Dataset).where(Dataset.name == name)) or datasets.create(
        session, name, "p"
    )


@pytest.mark.parametrize("lost", ["lost_replies", "lost_commits"])
def test_a_commit_that_is_not_answered_is_done_once(
    database: Database, direct: Database, proxy: Proxy, lost: str
) -> None:
    setattr(proxy, lost, 0.5)
    names = [f"{lost.replace('_', '-')}-{number}" for number in range(20)]
    for name in names:
        database.retrying(lambda session, name=name: add(session, name))
    assert proxy.lost >= 5
    with direct.transaction() as session:
        stored = session.scalars(select(Dataset.name).where(Dataset.name.in_(names))).all()
    assert sorted(stored) == sorted(names)


def test_it_is_unavailable_while_it_is_away_and_then_goes_on(
    database: Database, proxy: Proxy
) -> None:
    database.ping()
    proxy.refusing = True
    proxy.cut()
    with pytest.raises(Unavailable, match="does not answer"):
        database.ping()
    with pytest.raises(Unavailable):
        database.retrying(lambda session: session.scalar(select(1)), patience=0.3)
    timer = threading.Timer(0.5, setattr, (proxy, "refusing", False))
    timer.start()
    assert database.retrying(lambda session: session.scalar(select(1))) == 1


def test_a_shard_is_made_once_whatever_becomes_of_its_commits(
    world: World, database: Database, direct: Database, proxy: Proxy
) -> None:
    job = world.submit(40, 20, audit=0)
    proxy.lost_replies, proxy.lost_commits = 0.3, 0.2
    for shard_id in world.shards_of(job):
        before = database.retrying(lambda s, id_=shard_id: shards.fence(s, id_))
        lease = database.retrying(
            lambda s, id_=shard_id, b=before: shards.claim(s, id_, "worker", 60, before=b)
        )
        assert lease is not None
        assert lease.fence == 1
        attempt = database.retrying(lambda s, held=lease: shards.begin_attempt(s, held, "w", {}))
        by = MadeBy(world.dataset.id, job.id, shard_id, attempt)
        for start in range(lease.start, lease.stop, 4):
            rows = [made(ordinal) for ordinal in range(start, start + 4)]
            database.retrying(lambda s, held=lease, by=by, rows=rows: flush(s, held, by, rows))
        with suppress(LeaseLost):  # an earlier try had done it, and its answer was lost
            database.retrying(lambda s, held=lease: finish(s, held))
    assert proxy.lost > 3
    assert world.job(job).state == "succeeded"
    with direct.transaction() as session:
        count = select(func.count(), func.count(Sample.ordinal.distinct()))
        assert session.execute(count.where(Sample.job_id == job.id)).one() == (40, 40)
        assert invariants.violations(session) == []


def flush(session: Session, lease: shards.Lease, by: MadeBy, rows: list[samples.Made]) -> None:
    shards.renew(session, lease, 60)
    samples.store(session, by, rows, ReviewSpec(push=False))


def finish(session: Session, lease: shards.Lease) -> None:
    shards.finish(session, lease)
    jobs.finish_if_done(session, lease.job_id)


def test_a_worker_that_claimed_before_does_not_take_its_own_old_lease(
    world: World, direct: Database
) -> None:
    (shard_id,) = world.shards_of(world.submit(4))
    with direct.transaction() as session:
        assert shards.claim(session, shard_id, "same name", 60, before=0) is not None
    with direct.transaction() as session:
        before = shards.fence(session, shard_id)
        assert shards.claim(session, shard_id, "same name", 60, before=before) is None


def test_two_that_wait_for_each_other_both_come_to_an_end(world: World, direct: Database) -> None:
    (one, two) = (world.submit(1).id, world.submit(1).id)
    met = threading.Barrier(2)
    tries: list[object] = []

    def lock_both(first: object, second: object) -> None:
        def work(session: Session) -> None:
            tries.append(first)
            session.execute(select(Job.id).where(Job.id == first).with_for_update())
            if len(tries) <= 2:
                met.wait(10)
            session.execute(select(Job.id).where(Job.id == second).with_for_update())

        direct.retrying(work)

    threads = [threading.Thread(target=lock_both, args=pair) for pair in ((one, two), (two, one))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert len(tries) == 3


def test_a_worker_frozen_in_the_middle_of_storing_does_not_keep_its_shard(
    world: World, direct: Database
) -> None:
    (shard_id,) = world.shards_of(world.submit(4))
    lease = world.lease(shard_id, seconds=2)

    def freeze() -> None:
        with direct.transaction() as session:
            shards.renew(session, lease, 2)
            wait_until(is_freed)
            session.scalar(select(1))

    def is_freed() -> bool:
        with direct.transaction() as session:
            return lease.job_id in shards.reap(session, 3)

    with pytest.raises(Unavailable, match="nothing was heard"):
        freeze()
    direct.ping()


def wait_until(happened: Callable[[], bool]) -> None:
    for _ in range(200):
        if happened():
            return
        threading.Event().wait(0.05)
    raise AssertionError("not within 10 s")


@pytest.fixture
def app(settings: Settings, direct: Database) -> APIFlask:
    with direct.transaction() as session:
        tokens.ensure(session, "test", TOKEN)
    return create_app(settings)


@pytest.fixture
def settings(
    postgres_url: str, postgres_server: postgres.Server, proxy: Proxy, redis_url: str
) -> Settings:
    url = through(postgres_url, postgres_server, proxy)
    return Settings(database_url=url, broker_url=redis_url, secret_key="0" * 64)


def submit(app: APIFlask, world: World, key: str, count: int = 3):  # type: ignore[no-untyped-def]
    body = {"kind": "generate", "dataset": world.dataset.name, "model": world.model.name}
    headers = {"Authorization": f"Bearer {TOKEN}", "Idempotency-Key": key}
    return app.test_client().post("/api/v1/jobs", json={**body, "count": count}, headers=headers)


def submitted(database: Database, world: World) -> int:
    with database.transaction() as session:
        mine = select(func.count()).where(Job.dataset_id == world.dataset.id)
        return session.scalar(mine) or 0


def test_a_submission_is_refused_while_the_database_is_away_and_taken_once_afterwards(
    app: APIFlask, world: World, direct: Database, proxy: Proxy
) -> None:
    assert submit(app, world, "first").status_code == 201
    proxy.refusing = True
    proxy.cut()
    refused = submit(app, world, "second")
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert refused.content_type == "application/problem+json"
    assert submitted(direct, world) == 1
    proxy.refusing = False
    assert submit(app, world, "second").status_code == 201
    assert submit(app, world, "second").status_code == 200
    assert submitted(direct, world) == 2


def test_a_submission_whose_answer_is_lost_is_one_job_when_it_is_sent_again(
    app: APIFlask, world: World, direct: Database, proxy: Proxy
) -> None:
    proxy.lost_replies, proxy.lost_commits = 0.4, 0.2
    for number in range(10):
        while (answer := submit(app, world, f"lost {number}".replace(" ", "-"))).status_code == 503:
            assert answer.headers["Retry-After"]
        assert answer.status_code in (200, 201)
    assert proxy.lost > 3
    assert submitted(direct, world) == 10
    with direct.transaction() as session:
        assert invariants.violations(session) == []


FULL = """
CREATE FUNCTION be_full() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100';
END $$;
CREATE TRIGGER full_disk BEFORE INSERT ON shards FOR EACH ROW EXECUTE FUNCTION be_full()
"""


def test_a_full_disk_refuses_a_submission_whole_and_is_named(
    app: APIFlask, world: World, direct: Database
) -> None:
    with direct.transaction() as session:
        session.execute(text(FULL))
    refused = submit(app, world, "full")
    with direct.transaction() as session:
        session.execute(text("DROP TRIGGER full_disk ON shards; DROP FUNCTION be_full()"))
    assert refused.status_code == 503
    assert "disk is full" in refused.get_json()["detail"]
    assert refused.headers["Retry-After"]
    assert submitted(direct, world) == 0
    assert submit(app, world, "full").status_code == 201
