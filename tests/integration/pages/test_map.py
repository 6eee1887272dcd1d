"""The map: asked for, drawn by a worker, shown with what its samples are now."""

import json
import uuid

from factory import datasets, maps, outbox, samples
from factory.db import Database
from workers.map import draw_dataset

from .conftest import Visitor
from .test_pages import HOSTILE, assert_inert


def placed(db: Database, dataset: str, ids: list[uuid.UUID]) -> uuid.UUID:
    """The samples with embeddings, each its own direction."""
    with db.transaction() as session:
        vectors = [(id_, [0.1 * n, 1.0 - 0.1 * n, *[0.0] * 382]) for n, id_ in enumerate(ids)]
        samples.set_embeddings(session, vectors)
        return datasets.get(session, dataset).id


def drawn(db: Database, key: uuid.UUID) -> int:
    """Do the CPU worker's part."""
    number = draw_dataset(db, key)
    with db.transaction() as session:
        outbox.settle(session, outbox.DRAW_MAP, key)
    return number


def test_a_map_is_drawn_when_someone_asks(
    visitor: Visitor, db: Database, dataset: str, made: list[uuid.UUID]
) -> None:
    key = placed(db, dataset, made)
    path = f"/map?dataset={dataset}"
    assert "Not drawn yet" in visitor.get(path).text
    assert visitor.post(f"/map/{dataset}").location == path
    assert "A CPU worker is asked to draw it" in visitor.get(path).text
    assert visitor.get(f"/map/{dataset}/waiting").status_code == 204
    assert drawn(db, key) == 4
    assert visitor.get(f"/map/{dataset}/waiting").headers["HX-Refresh"] == "true"
    shown = visitor.get(path).text
    assert "4 samples: 4 generated." in shown
    assert "text 3" in shown


def test_points_say_what_their_samples_are_now(
    visitor: Visitor, db: Database, dataset: str, made: list[uuid.UUID]
) -> None:
    drawn(db, placed(db, dataset, made))
    with db.transaction() as session:
        samples.get(session, made[0]).state = "rejected"
    rows = visitor.get(f"/map/{dataset}/points").get_json()
    assert [row[0] for row in rows] == [str(id_) for id_ in sorted(made)]
    states = {row[0]: row[4] for row in rows}
    assert states[str(made[0])] == "rejected"
    xs = [row[1] for row in sorted(rows, key=lambda row: made.index(uuid.UUID(row[0])))]
    assert xs in (sorted(xs), sorted(xs, reverse=True))


def test_only_the_newest_are_drawn_and_those_without_an_embedding_are_not(
    db: Database, dataset: str, made: list[uuid.UUID]
) -> None:
    key = placed(db, dataset, made[:2])
    with db.transaction() as session:
        datasets.import_lines(session, datasets.get(session, dataset), [b'{"text": "real"}'])
    assert drawn(db, key) == 2


def test_a_dataset_without_embeddings_has_nothing_to_draw(
    visitor: Visitor, db: Database, dataset: str
) -> None:
    with db.transaction() as session:
        key = datasets.get(session, dataset).id
    assert drawn(db, key) == 0
    assert "Nothing to draw" in visitor.get(f"/map?dataset={dataset}").text


def test_hostile_texts_do_nothing_on_the_map(visitor: Visitor, db: Database, dataset: str) -> None:
    with db.transaction() as session:
        found = datasets.get(session, dataset)
        lines = [line(text) for text in HOSTILE]
        datasets.import_lines(session, found, lines)
        ids = [row.id for row in samples.list_page(session, found.id)]
    drawn(db, placed(db, dataset, ids))
    assert_inert(visitor.get(f"/map?dataset={dataset}").text)
    answer = visitor.get(f"/map/{dataset}/points")
    assert answer.mimetype == "application/json"
    assert {row[6] for row in answer.get_json()} == {text[: maps.SHOWN_LETTERS] for text in HOSTILE}


def line(text: str) -> bytes:
    return json.dumps({"text": text}).encode()
