"""A GPU worker whose database is out of reach for longer than its lease: that is nobody's crash."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from factory import jobs, shards
from factory.db import Database
from factory.local import postgres
from workers import generate
from workers.gpu_worker import GpuWorker

from ...faults.proxy import Proxy
from .factory_floor import Floor

LEASE = 1.0  # seconds


@pytest.fixture
def proxy(postgres_server: postgres.Server) -> Iterator[Proxy]:
    with Proxy(postgres_server.port) as proxy:
        yield proxy


@pytest.fixture
def gpu(floor: Floor, proxy: Proxy, postgres_server: postgres.Server) -> Iterator[GpuWorker]:
    """It reaches its database only through the proxy."""
    url = floor.settings.database_url.replace(f":{postgres_server.port}/", f":{proxy.port}/")
    settings = floor.settings.model_copy(
        update={"database_url": url, "lease_seconds": LEASE, "shard_attempts": 2}
    )
    database = Database(url)
    yield GpuWorker(settings, database)
    database.close()


def out_of_reach(proxy: Proxy, until: Callable[[], object]) -> None:
    """Cut the database off, until something happened to it that the worker cannot see."""
    proxy.refusing = True
    proxy.cut()

    def wait() -> None:
        while not until():
            time.sleep(0.02)
        proxy.refusing = False

    threading.Thread(target=wait, daemon=True).start()


def each_time(monkeypatch: pytest.MonkeyPatch, texts: int, act: Callable[[], None]) -> None:
    """Do something whenever so many more texts are finished."""
    finished, count = generate._finished, [0]

    def counted(*arguments: Any) -> Any:
        count[0] += 1
        if count[0] % texts == 0:
            act()
        return finished(*arguments)

    monkeypatch.setattr(generate, "_finished", counted)


def reaped(floor: Floor) -> Callable[[], bool]:
    def reap() -> bool:
        with floor.database.transaction() as session:
            freed = shards.reap(session, 2)
            for job_id in freed:
                jobs.finish_if_done(session, job_id)
        return bool(freed)

    return reap


def test_leases_that_outages_took_do_not_end_a_shard(
    floor: Floor, gpu: GpuWorker, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = floor.submit(20, 20, audit=0)
    (shard,) = floor.shards(job)
    outages: list[None] = []

    def outage() -> None:
        if len(outages) < 3:
            outages.append(None)
            out_of_reach(proxy, reaped(floor))

    each_time(monkeypatch, 6, outage)
    while floor.job(job).ended_at is None:
        gpu.run_shard(shard.id)
    assert len(outages) == 3
    assert floor.job(job).state == "succeeded"
    (after,) = floor.shards(job)
    assert (after.crashes, after.fence) == (0, 4)
    assert [sample.ordinal for sample in floor.samples(job)] == list(range(20))


def test_a_shard_that_could_not_be_stored_for_long_is_handed_back(
    floor: Floor, gpu: GpuWorker, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody reaps: the worker itself tells, when it can."""
    job = floor.submit(8, 8, audit=0)
    (shard,) = floor.shards(job)
    back = time.monotonic() + 2.5 * LEASE
    each_time(monkeypatch, 3, lambda: out_of_reach(proxy, lambda: time.monotonic() > back))
    gpu.run_shard(shard.id)
    (after,) = floor.shards(job)
    assert (after.state, after.crashes) == ("pending", 0)
    assert floor.job(job).state == "running"


def test_a_request_that_the_database_put_off_is_answered_all_the_same(
    floor: Floor, gpu: GpuWorker, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = floor.ask("preview", spec={})
    answer, cuts = gpu.desk._answer, [0]

    def cut_off(*arguments: Any) -> Any:
        result = {"nothing": "lost"}
        if cuts[0] < 4:
            cuts[0] += 1
            proxy.cut()
        else:
            monkeypatch.setattr(gpu.desk, "_answer", answer)
        return result

    monkeypatch.setattr(gpu.desk, "_answer", cut_off)
    for _ in range(4):
        gpu.desk.serve_all()
        assert (floor.answer(ask).done_at, floor.answer(ask).attempts) == (None, 0)
    gpu.desk.serve_all()
    assert floor.answer(ask).result == {"nothing": "lost"}


def test_all_that_lost_their_workers_come_before_what_is_new(floor: Floor) -> None:
    """Also the second of them: the first is often taken by another worker meanwhile."""
    job = floor.submit(6, 2, audit=0)
    first, second, new = floor.shards(job)
    for shard in (first, second):
        with floor.database.transaction() as session:
            lease = shards.claim(session, shard.id, "gone", 60)
            assert lease is not None
            shards.hand_back(session, lease)
    GpuWorker(floor.settings, floor.database).run_shard(new.id)
    order = {sample.shard_id: sample.id for sample in reversed(floor.samples(job))}
    assert sorted(order, key=lambda id_: order[id_]) == [first.id, second.id, new.id]
