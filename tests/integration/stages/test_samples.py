"""Samples: pages, search, neighbours, export and provenance, on a real database."""

import random
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import insert, select, text

from factory import exports, near_copies, outbox, samples, shards
from factory.errors import Conflict, Invalid, NotFound
from factory.ids import new_id
from factory.tables import Outbox, Push, Sample

from .world import World, add_real, made, vector


def page_through(world: World, limit: int, **filters: object) -> list[uuid.UUID]:
    """Every id, page by page."""
    seen: list[uuid.UUID] = []
    while True:
        with world.database.transaction() as session:
            page = samples.list_page(
                session,
                world.dataset.id,
                before=seen[-1] if seen else None,
                limit=limit,
                **filters,  # type: ignore[arg-type]
            )
        seen += [sample.id for sample in page]
        if len(page) < limit:
            return seen


def embed(world: World, vectors: dict[uuid.UUID, list[float]]) -> None:
    with world.database.transaction() as session:
        samples.set_embeddings(session, list(vectors.items()))


def many_embedded(world: World, number: int, vector_of: Callable[[int], list[float]]) -> None:
    """Real samples straight into the table."""
    rows = [
        {
            "id": new_id(),
            "dataset_id": world.dataset.id,
            "origin": "real",
            "state": "accepted",
            "text": f"text {i}",
            "text_sha256": str(i).encode(),
            "embedding": vector_of(i),
        }
        for i in range(number)
    ]
    with world.database.transaction() as session:
        session.execute(insert(Sample), rows)


def test_pages_hold_every_sample_once_newest_first(world: World) -> None:
    made_ids = [sample.id for sample in add_real(world, [f"t{i}" for i in range(11)])]
    assert page_through(world, 3) == sorted(made_ids, reverse=True)


def test_pages_stay_whole_while_samples_are_added(world: World) -> None:
    before = {sample.id for sample in add_real(world, [f"old {i}" for i in range(40)])}
    done = threading.Event()

    def add() -> None:
        for i in range(10):
            add_real(world, [f"new {i}"])
        done.set()

    with ThreadPoolExecutor(1) as pool:
        adding = pool.submit(add)
        walks = [page_through(world, 7)]
        while not done.is_set():
            walks.append(page_through(world, 7))
        adding.result()
    for walk in walks:
        assert len(set(walk)) == len(walk)
        assert walk == sorted(walk, reverse=True)
        assert before <= set(walk)


def test_pages_by_origin_state_job_and_words(world: World) -> None:
    (real,) = add_real(world, ["the red fox jumps"])
    first, second = world.generated(["a red hen", "a blue hen"])
    world.set(second, state="rejected")
    assert page_through(world, 9, origin="real") == [real.id]
    assert page_through(world, 9, states=("rejected", "filtered")) == [second.id]
    assert page_through(world, 9, job_id=first.job_id) == [second.id, first.id]
    assert page_through(world, 9, query="red") == [first.id, real.id]
    assert page_through(world, 9, query="hen -red") == [second.id]
    assert page_through(world, 9, query='"red fox"') == [real.id]
    assert page_through(world, 9, query="'\\ & | ! :* (") == []


def test_near_copies_are_listed_alone_or_left_out(world: World) -> None:
    """Marked by a gate when they are stored, or later, when they are embedded."""
    (real,) = add_real(world, ["a red fox"])
    job = world.submit(4, 4)
    lease = world.lease(world.shards_of(job)[0])
    reasons = ("near-copy of a real sample: cosine 0.97", None, "too short", None)
    rows = [replace(made(n, f"t{n}"), filter_reason=why) for n, why in enumerate(reasons)]
    world.store(lease, rows)
    first, second, third, fourth = page_through(world, 9, job_id=job.id)[::-1]
    assert page_through(world, 9, near_copy=True) == [first]
    why = "near-copy of a real sample: has 90% of its runs of three words"
    with world.database.transaction() as session:
        near_copies.mark(session, world.dataset.id, [(fourth, real.id, why)])
        marks = near_copies.of_samples(session, [first, second, fourth])
    assert {id_: (mark.of, mark.why) for id_, mark in marks.items()} == {
        first: (None, reasons[0]),
        fourth: (real.id, why),
    }
    assert page_through(world, 1, near_copy=True) == [fourth, first]
    assert page_through(world, 1, near_copy=False) == [third, second, real.id]
    assert page_through(world, 9, near_copy=True, states=("filtered",)) == [first]


def test_neighbours_are_the_nearest_of_the_dataset(world: World) -> None:
    rows = add_real(world, ["a", "b", "c", "d", "no embedding"])
    at = {rows[0].id: vector(1, 0), rows[1].id: vector(1, 0.5), rows[2].id: vector(0, 1)}
    embed(world, {**at, rows[3].id: vector(-1, 0)})
    with world.database.transaction() as session:
        near = samples.neighbours(session, rows[0].id, 2)
        every = samples.neighbours(session, rows[0].id, 50)
        with pytest.raises(Conflict, match="no embedding"):
            samples.neighbours(session, rows[4].id, 1)
        with pytest.raises(NotFound):
            samples.neighbours(session, new_id(), 1)
    assert [sample.text for sample, _ in near] == ["b", "c"]
    assert near[0][1] == pytest.approx(1 / 1.25**0.5, abs=1e-6)
    assert [sample.text for sample, _ in every] == ["b", "c", "d"]


def test_as_many_neighbours_as_asked_for_though_others_crowd_the_index(
    new_world: Callable[[], World],
) -> None:
    """Thousands of another dataset's samples lie nearer than this one's."""
    crowd, here = new_world(), new_world()
    noise = random.Random(1)
    many_embedded(crowd, 1500, lambda i: vector(1, *(noise.gauss(0, 0.01) for _ in range(8))))
    many_embedded(here, 30, lambda i: vector(1, 0.5, *(noise.gauss(0, 0.3) for _ in range(8))))
    (one,) = add_real(here, ["the one"])
    embed(here, {one.id: vector(1)})
    with here.database.transaction() as session:
        session.execute(text("SET LOCAL hnsw.max_scan_tuples = 100"))
        session.execute(text("SET LOCAL enable_seqscan = off"))
        session.execute(text("SET LOCAL enable_bitmapscan = off"))
        session.execute(text("SET LOCAL enable_sort = off"))
        near = samples.neighbours(session, one.id, 10)
    assert len(near) == 10
    assert [away for _, away in near] == sorted((away for _, away in near), reverse=True)
    assert {sample.dataset_id for sample, _ in near} == {here.dataset.id}


def test_embeddings_are_owed_until_they_are_there(world: World) -> None:
    rows = add_real(world, ["a", "b", "c"])
    with world.database.transaction() as session:
        waiting = samples.unembedded(session, world.dataset.id, 2)
        assert outbox.version(session, outbox.EMBED, world.dataset.id) is not None
    assert waiting == [(rows[0].id, "a"), (rows[1].id, "b")]
    embed(world, {id_: vector(1) for id_, _ in waiting})
    with world.database.transaction() as session:
        assert samples.unembedded(session, world.dataset.id, 9) == [(rows[2].id, "c")]
        with pytest.raises(Invalid, match="384"):
            samples.set_embeddings(session, [(rows[2].id, [1.0])])


def test_export_is_oldest_first_in_its_columns(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exports, "BATCH", 2)
    real = add_real(world, ["r1", "r2", "r3"])
    generated = world.generated(["g1", "g2"])
    with world.database.transaction() as session:
        rows = list(exports.records(session, world.dataset, ["accepted", "generated"], None))
        only = list(exports.records(session, world.dataset, ["generated"], "synthetic"))
        none = list(exports.records(session, world.dataset, ["rejected"], None))
    ids = [str(sample.id) for sample in (*real, *generated)]
    assert [row["id"] for row in rows] == sorted(ids)
    assert [row["text"] for row in only] == ["g1", "g2"]
    assert none == []
    assert len({tuple(row) for row in rows}) == 1
    assert {*rows[0]} >= {"text", "origin", "state", "job", "seed", "model", "rule", "eta"}
    assert (only[0]["model"], only[0]["rule"], only[0]["device"]) == (
        world.model.name,
        "steer",
        "cpu",
    )


def test_provenance_names_everything_and_its_documents_in_order(world: World) -> None:
    real = add_real(world, ["r1", "r2", "r3"])
    (accepted,) = world.generated(["good"])
    job = world.submit(1, 1)
    lease = world.lease(world.shards_of(job)[0])
    order = (real[2].id, real[0].id, real[1].id)
    world.store(lease, [made(0, negatives=order, center=(accepted.id,))])
    with world.database.transaction() as session:
        (sample,) = samples.list_page(session, world.dataset.id, job_id=job.id)
        how = samples.provenance(session, sample.id)
        with pytest.raises(Conflict, match="not generated"):
            samples.provenance(session, real[0].id)
    assert [entry["id"] for entry in how["negatives"]] == [str(id_) for id_ in order]
    assert [entry["position"] for entry in how["negatives"]] == [0, 1, 2]
    assert how["center"] == [{"id": str(accepted.id), "origin": "synthetic", "position": 0}]
    assert (how["job"], how["ordinal"], how["seed"]) == (str(job.id), 0, 100)
    assert how["shard"] == str(lease.shard_id)
    assert how["slots"] == 4


def test_what_is_stored_is_owed_its_embedding_and_its_review(world: World) -> None:
    kept = world.generated(["one", "two", "  "], push=True)
    assert [sample.state for sample in kept] == ["generated", "generated", "filtered"]
    with world.database.transaction() as session:
        pushed = set(session.scalars(select(Push.sample_id)))
        owed = set(
            session.execute(select(Outbox.task).where(Outbox.key == world.dataset.id)).scalars()
        )
    assert pushed & {sample.id for sample in kept} == {kept[0].id, kept[1].id}
    assert owed == {outbox.EMBED, outbox.PUSH}


def test_a_batch_with_more_links_than_a_statement_can_hold(world: World) -> None:
    """257 samples with 32 negatives and 32 centres each, 4 values a link."""
    documents = [sample.id for sample in add_real(world, [f"r{i}" for i in range(32)])]
    job = world.submit(257, 257)
    lease = world.lease(world.shards_of(job)[0])
    both = {"negatives": tuple(documents), "center": tuple(documents)}
    world.store(lease, [made(i, **both) for i in range(257)])
    with world.database.transaction() as session:
        assert shards.missing(session, lease) == []
        (sample,) = samples.list_page(session, world.dataset.id, job_id=job.id, limit=1)
        assert len(samples.negatives_of(session, sample.id)) == 64
