"""Datasets, and the import of real samples: good lines go in, bad ones are named."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from factory import datasets, outbox, samples
from factory.datasets import Imported
from factory.errors import Conflict, NotFound
from factory.ids import new_id

from .world import World


def import_lines(world: World, *lines: bytes) -> Imported:
    with world.database.transaction() as session:
        return datasets.import_lines(session, world.dataset, lines)


def line(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def texts(world: World) -> list[str]:
    with world.database.transaction() as session:
        page = samples.list_page(session, world.dataset.id, origin="real", limit=10_000)
        return [sample.text for sample in page][::-1]


def test_a_dataset_has_its_name_alone(world: World) -> None:
    with pytest.raises(Conflict), world.database.transaction() as session:
        datasets.create(session, world.dataset.name, "p")
    with pytest.raises(NotFound), world.database.transaction() as session:
        datasets.get(session, "no-such")


def test_good_lines_go_in_with_all_they_say(world: World) -> None:
    done = import_lines(
        world, line(text="one", label="x", meta={"n": [1, None]}), b" ", line(text="two")
    )
    assert (done.imported, done.duplicates, done.rejected) == (2, 0, [])
    assert texts(world) == ["one", "two"]
    with world.database.transaction() as session:
        first = samples.list_page(session, world.dataset.id)[-1]
        counts = datasets.counts(session, world.dataset)
        assert outbox.version(session, outbox.EMBED, world.dataset.id) is not None
    assert (first.label, first.meta, first.state) == ("x", {"n": [1, None]}, "accepted")
    assert counts == {"origin": {"real": 2}, "state": {"accepted": 2}}


BAD = {
    "not JSON": b"{",
    "not UTF-8": b'{"text": "\xff"}',
    "not an object": b"5",
    "no text": b'{"label": "x"}',
    "blank": b'{"text": " \\t"}',
    "not a string": b'{"text": 5}',
    "a NUL": b'{"text": "a\\u0000b"}',
    "a NUL in meta": b'{"text": "a", "meta": {"k": "\\u0000"}}',
    "half a surrogate": b'{"text": "\\ud800"}',
    "an unknown field": b'{"text": "a", "txet": "b"}',
    "not a number": b'{"text": "a", "meta": {"n": NaN}}',
    "an endless number": b'{"text": "a", "meta": {"n": 1e999}}',
    "too deep": b'{"text": "a", "meta": {"n": ' + b"[" * 5000 + b"]" * 5000 + b"}}",
    "too long": line(text="x" * 100_001),
    "a huge line": b'{"text": "' + b"y" * 5_000_000,
    "a huge number": b'{"text": "a", "meta": {"n": ' + b"9" * 5000 + b"}}",
}


def test_bad_lines_are_named_and_the_others_go_in(world: World) -> None:
    lines = [part for bad in BAD.values() for part in (line(text=f"good {len(bad)}"), bad)]
    done = import_lines(world, *lines)
    named = {error.line: error.error for error in done.rejected}
    assert set(named) == set(range(2, 2 * len(BAD) + 1, 2))
    assert all(0 < len(reason) < 400 for reason in named.values()), named
    assert done.imported + done.duplicates == len(BAD)
    at = dict(zip(BAD, sorted(named), strict=True))
    assert named[at["no text"]].startswith("text:")
    assert "NUL" in named[at["a NUL"]]
    assert "UTF-8" in named[at["not UTF-8"]]


def test_the_longest_text_goes_in_whole(world: World) -> None:
    words = " ".join(str(i) for i in range(20_000))[:100_000]
    long = ["é" * 100_000, words, "a" * 100_000]
    assert import_lines(world, *(line(text=text) for text in long)).imported == 3
    assert sorted(texts(world)) == sorted(long)


def test_duplicates_are_counted_within_an_import_and_across(world: World) -> None:
    first = import_lines(world, line(text="a"), line(text="a"), line(text="a "))
    assert (first.imported, first.duplicates) == (2, 1)
    again = import_lines(world, line(text="a"), line(text="b"))
    assert (again.imported, again.duplicates) == (1, 1)


def test_a_generated_text_is_no_duplicate_of_a_real_one(world: World) -> None:
    world.generated(["same"])
    assert import_lines(world, line(text="same")).imported == 1


def test_the_same_import_twice_at_once_stores_each_text_once(world: World) -> None:
    lines = [line(text=f"text {i}") for i in range(1200)]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: import_lines(world, *lines), range(2)))
    assert sum(part.imported for part in done) == 1200
    assert sum(part.duplicates for part in done) == 1200
    assert len(set(texts(world))) == 1200


def test_lines_are_read_one_after_the_other(world: World) -> None:
    """A large body is never held whole."""
    read = [0]

    def lines() -> Iterator[bytes]:
        for i in range(1500):
            read[0] += 1
            yield line(text=f"t{i}")

    with world.database.transaction() as session:
        assert datasets.import_lines(session, world.dataset, lines()).imported == 1500
    assert read == [1500]


def test_datasets_are_listed_newest_first(world: World) -> None:
    with world.database.transaction() as session:
        made = [datasets.create(session, f"x{new_id().hex}", "p").id for _ in range(3)]
        page = datasets.list_all(session, limit=2)
        rest = datasets.list_all(session, before=page[-1].id, limit=1)
    assert [dataset.id for dataset in (*page, *rest)] == made[::-1]
