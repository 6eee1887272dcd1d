"""Which samples are steered away from: sources, strategies, the centre."""

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from factory import negatives, samples
from factory.errors import Conflict
from factory.negatives import Chosen
from factory.spec import NegativesSpec
from factory.tables import Sample

from .world import World, add_real, vector


def choose(world: World, seed: int = 0, **spec: Any) -> Chosen:
    with world.database.transaction() as session:
        rng = random.Random(seed)
        return negatives.choose(session, world.dataset.id, NegativesSpec(**spec), rng)


def fill(world: World, **states: int) -> dict[str, list[Sample]]:
    """Generated samples in these states, as many as said."""
    filled = {}
    for state, number in states.items():
        rows = world.generated([f"{state} {i}" for i in range(number)])
        for row in rows:
            world.set(row, state=state)
        filled[state] = rows
    return filled


def place(world: World, *at: tuple[Sample, list[float]]) -> None:
    with world.database.transaction() as session:
        samples.set_embeddings(session, [(sample.id, where) for sample, where in at])


def test_a_dataset_without_samples_has_nothing_to_steer_away_from(world: World) -> None:
    assert choose(world) == Chosen()


def test_sources_are_drawn_from_by_their_weights(world: World) -> None:
    add_real(world, [f"real {i}" for i in range(30)])
    fill(world, rejected=30, generated=30)
    weights = {"rejected": 3, "real": 1, "synthetic": 0}
    drawn = Counter(
        document.source
        for seed in range(150)
        for document in choose(world, seed, count=2, sources=weights, center=False).negatives
    )
    assert drawn["synthetic"] == 0
    assert drawn["rejected"] / drawn.total() == pytest.approx(0.75, abs=0.1)


def test_an_empty_source_passes_its_share_on(world: World) -> None:
    fill(world, generated=4)
    picked = choose(world, count=3, sources={"rejected": 5, "real": 5, "synthetic": 1})
    assert [document.source for document in picked.negatives] == ["synthetic"] * 3


def test_no_sample_twice_and_no_more_than_there_are(world: World) -> None:
    fill(world, rejected=2, generated=1)
    picked = choose(world, count=8, sources={"rejected": 1, "synthetic": 1})
    ids = [document.id for document in picked.negatives]
    assert len(ids) == len(set(ids)) == 3


def test_synthetic_is_what_may_still_be_good(world: World) -> None:
    good = ("generated", "in_review", "accepted")
    rows = fill(world, **dict.fromkeys((*good, "rejected", "fixed", "filtered"), 1))
    add_real(world, ["real"])
    ids = {document.id for document in choose(world, count=9, sources={"synthetic": 1}).negatives}
    assert ids == {rows[state][0].id for state in good}


def test_another_datasets_samples_are_never_chosen(new_world: Any) -> None:
    here, other = new_world(), new_world()
    fill(other, rejected=3, generated=3)
    assert choose(here) == Chosen()


def test_the_same_draw_gives_the_same_negatives(world: World) -> None:
    fill(world, rejected=12, generated=12)
    assert choose(world, 5, count=4) == choose(world, 5, count=4)
    assert len({choose(world, seed, count=4) for seed in range(8)}) > 1


def test_recent_takes_the_newest_of_each_source(world: World) -> None:
    rows = fill(world, rejected=6)["rejected"]
    picked = choose(world, count=3, strategy="recent", sources={"rejected": 1}, center=False)
    assert [document.id for document in picked.negatives] == [row.id for row in rows[:2:-1]]


def test_nearest_takes_neighbours_of_one_of_them(world: World) -> None:
    rows = fill(world, rejected=8)["rejected"]
    for i, row in enumerate(rows):
        side = vector(1, 0.01 * i) if i % 2 else vector(-1, 0.01 * i)
        place(world, (row, side))
    for seed in range(6):
        picked = choose(
            world, seed, count=3, strategy="nearest", sources={"rejected": 1}, center=False
        )
        sides = {rows.index(next(r for r in rows if r.id == d.id)) % 2 for d in picked.negatives}
        assert len(sides) == 1


def test_nearest_negatives_of_two_sources_share_one_theme(world: World) -> None:
    rows = fill(world, rejected=4, accepted=4)
    sides = {}
    for name in ("rejected", "accepted"):
        for i, row in enumerate(rows[name]):
            sides[row.id] = i % 2
            place(world, (row, vector(1 if i % 2 else -1, 0.01 * i)))
    sources = {"rejected": 1, "synthetic": 1}
    for seed in range(8):
        picked = choose(world, seed, count=2, strategy="nearest", sources=sources, center=False)
        assert len({sides[document.id] for document in picked.negatives}) == 1


def test_nearest_works_before_anything_is_embedded(world: World) -> None:
    fill(world, rejected=4)
    picked = choose(world, count=3, strategy="nearest", sources={"rejected": 1})
    assert len(picked.negatives) == 3
    assert picked.center == ()


def test_the_window_forgets_old_evidence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(negatives, "WINDOW", 3)
    rows = fill(world, rejected=5)["rejected"]
    newest = {row.id for row in rows[-3:]}
    for seed in range(5):
        picked = choose(world, seed, count=5, sources={"rejected": 1}, center=False)
        assert {document.id for document in picked.negatives} == newest


def test_the_centre_is_the_nearest_accepted_of_each_rejected_in_order(world: World) -> None:
    rows = fill(world, rejected=2, accepted=3)
    bad, good = rows["rejected"], rows["accepted"]
    (real,) = add_real(world, ["a real one, as near as can be"])
    place(
        world,
        (bad[0], vector(1, 0)),
        (bad[1], vector(0, 1)),
        (real, vector(1, 0)),
        (good[0], vector(0.1, 1)),
        (good[1], vector(1, 0.1)),
        (good[2], vector(-1, -1)),
    )
    for seed in range(4):
        picked = choose(world, seed, count=2, sources={"rejected": 1})
        nearest = {bad[0].id: good[1].id, bad[1].id: good[0].id}
        expected = [nearest[document.id] for document in picked.negatives]
        assert [document.id for document in picked.center] == expected


def test_what_is_a_negative_is_no_centre(world: World) -> None:
    rows = fill(world, rejected=1, accepted=1)
    place(world, (rows["rejected"][0], vector(1)), (rows["accepted"][0], vector(1)))
    picked = choose(world, count=2, sources={"rejected": 1, "synthetic": 1})
    assert len(picked.negatives) == 2
    assert picked.center == ()


def test_a_correction_may_be_a_centre(world: World) -> None:
    rows = fill(world, rejected=1, fixed=1)
    with world.database.transaction() as session:
        better = Sample(
            dataset_id=world.dataset.id,
            origin="corrected",
            state="accepted",
            text="better",
            text_sha256=b"x",
            corrects=rows["fixed"][0].id,
            embedding=vector(1),
        )
        session.add(better)
    place(world, (rows["rejected"][0], vector(1)))
    picked = choose(world, count=1, sources={"rejected": 1})
    assert [document.id for document in picked.center] == [better.id]


def test_only_rejected_negatives_have_a_centre_and_only_when_asked(world: World) -> None:
    rows = fill(world, rejected=1, accepted=2)
    place(world, *((row, vector(1)) for part in rows.values() for row in part))
    assert choose(world, count=1, sources={"synthetic": 1}).center == ()
    assert choose(world, count=1, sources={"rejected": 1}, center=False).center == ()
    assert len(choose(world, count=1, sources={"rejected": 1}).center) == 1


def test_recorded_documents_come_back_in_their_order(world: World) -> None:
    ids = [row.id for row in fill(world, rejected=4)["rejected"]][::-1]
    with world.database.transaction() as session:
        assert [document.id for document in negatives.recorded(session, ids)] == ids


def test_pools_and_the_list_count_what_is_there(world: World) -> None:
    rows = fill(world, rejected=3, generated=2)
    with world.database.transaction() as session:
        assert negatives.pools(session, world.dataset.id) == {
            "real": 0,
            "synthetic": 2,
            "rejected": 3,
        }
        page = negatives.list_page(session, world.dataset.id, limit=2)
        rest = negatives.list_page(session, world.dataset.id, before=page[-1][0].id)
    ids = [sample.id for sample, _ in (*page, *rest)]
    assert ids == [row.id for row in rows["rejected"]][::-1]
    assert {used for _, used in page} == {0}


def test_a_retired_sample_is_never_drawn_again(world: World) -> None:
    rejected = fill(world, rejected=4)["rejected"]
    with world.database.transaction() as session:
        negatives.mark(session, rejected[0], "retired")
    drawn = {d.id for seed in range(30) for d in choose(world, seed, count=4).negatives}
    assert drawn == {row.id for row in rejected[1:]}


def test_a_pinned_sample_is_always_drawn_first_and_centred(world: World) -> None:
    rows = fill(world, rejected=30, accepted=1)
    pinned = rows["rejected"][7]
    place(world, (pinned, vector(1)), (rows["accepted"][0], vector(1, 0.9)))
    with world.database.transaction() as session:
        negatives.mark(session, pinned, "pinned")
    for seed in range(10):
        chosen = choose(world, seed, count=3, sources={"rejected": 1})
        assert chosen.negatives[0].id == pinned.id
        assert len({document.id for document in chosen.negatives}) == 3
        assert [document.id for document in chosen.center] == [rows["accepted"][0].id]


def test_more_pins_than_negatives_all_come_and_too_many_are_refused(world: World) -> None:
    rows = fill(world, generated=negatives.PINS + 1)["generated"]
    with world.database.transaction() as session:
        for row in rows[:-1]:
            negatives.mark(session, row, "pinned")
    chosen = choose(world, count=2)
    assert {document.id for document in chosen.negatives} == {row.id for row in rows[:-1]}
    with world.database.transaction() as session, pytest.raises(Conflict, match="Unpin one"):
        negatives.mark(session, rows[-1], "pinned")


def test_a_mark_is_changed_and_taken_back(world: World) -> None:
    [row] = fill(world, rejected=1)["rejected"]
    with world.database.transaction() as session:
        negatives.mark(session, row, "pinned")
        negatives.mark(session, row, "retired")
        assert negatives.marks(session, [row.id]) == {row.id: "retired"}
        negatives.unmark(session, row.id)
    assert [document.id for document in choose(world).negatives] == [row.id]


def test_marks_of_another_dataset_do_not_count(
    world: World, new_world: Callable[[], World]
) -> None:
    [theirs] = fill(new_world(), rejected=1)["rejected"]
    fill(world, rejected=1)
    with world.database.transaction() as session:
        negatives.mark(session, theirs, "pinned")
    assert theirs.id not in {document.id for document in choose(world, count=5).negatives}
