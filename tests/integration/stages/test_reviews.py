"""Reviews: the latest live annotation of a sample decides, whatever order events come in."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from factory import outbox, pushes, reviews
from factory.db import Database
from factory.reviews import Verdict
from factory.tables import Outbox, Push, Sample, WebhookEvent

from .world import World, world_in

START = datetime(2026, 1, 1, tzinfo=UTC)
_ids = iter(range(1, 1_000_000))


def verdict(kind: str, *, minute: int = 0, id_: int = 0, **fields: Any) -> Verdict:
    values = {
        "annotation_id": id_ or next(_ids),
        "task_id": 1,
        "verdict": kind,
        "reasons": (),
        "rewrite": None,
        "rating": None,
        "reviewer": "ann",
        "lead_seconds": 1.5,
        "created_at": START,
        "updated_at": START + timedelta(minutes=minute),
    }
    return Verdict(**{**values, **fields})


def apply(world: World, sample: Sample, *verdicts: Verdict) -> None:
    for one in verdicts:
        with world.database.transaction() as session:
            reviews.apply(session, sample.id, one)


def withdraw(world: World, one: Verdict) -> None:
    with world.database.transaction() as session:
        reviews.withdraw(session, one.annotation_id)


def state(world: World, sample: Sample) -> str:
    with world.database.transaction() as session:
        return session.get_one(Sample, sample.id).state


def corrections(world: World, sample: Sample) -> dict[str, str]:
    """Text and state of each correction of a sample."""
    with world.database.transaction() as session:
        rows = session.scalars(select(Sample).where(Sample.corrects == sample.id))
        return {row.text: row.state for row in rows}


@pytest.fixture
def sample(world: World) -> Sample:
    (row,) = world.generated(["a text"], push=True)
    world.set(row, state="in_review")
    return row


@pytest.mark.parametrize(
    ("kind", "becomes"), [("accept", "accepted"), ("reject", "rejected"), ("fix", "fixed")]
)
def test_a_verdict_decides_and_its_deletion_puts_it_back(
    world: World, sample: Sample, kind: str, becomes: str
) -> None:
    one = verdict(kind)
    apply(world, sample, one, one)
    assert state(world, sample) == becomes
    withdraw(world, one)
    withdraw(world, one)
    assert state(world, sample) == "in_review"


def test_the_latest_live_annotation_decides(world: World, sample: Sample) -> None:
    late, early = verdict("reject", minute=5), verdict("accept", minute=1)
    apply(world, sample, late, early)
    assert state(world, sample) == "rejected"
    withdraw(world, late)
    assert state(world, sample) == "accepted"


def test_an_older_version_of_an_annotation_changes_nothing(world: World, sample: Sample) -> None:
    old = verdict("accept", minute=1)
    new = replace(old, verdict="reject", updated_at=START + timedelta(minutes=2))
    apply(world, sample, old, new, old)
    assert state(world, sample) == "rejected"


def test_a_fix_makes_a_corrected_sample(world: World, sample: Sample) -> None:
    with world.database.transaction() as session:
        outbox.settle(session, outbox.EMBED, world.dataset.id)
    apply(world, sample, verdict("fix", rewrite="better"))
    assert corrections(world, sample) == {"better": "accepted"}
    with world.database.transaction() as session:
        assert outbox.version(session, outbox.EMBED, world.dataset.id) is not None


def test_another_rewrite_is_another_sample_and_the_old_one_is_withdrawn(
    world: World, sample: Sample
) -> None:
    one = verdict("fix", rewrite="better")
    two = replace(one, rewrite="best", updated_at=START + timedelta(minutes=1))
    back = replace(one, updated_at=START + timedelta(minutes=2))
    apply(world, sample, one, two)
    assert corrections(world, sample) == {"better": "filtered", "best": "accepted"}
    apply(world, sample, back)
    assert corrections(world, sample) == {"better": "accepted", "best": "filtered"}


def test_a_correction_whose_verdict_is_gone_or_overruled_is_filtered(
    world: World, sample: Sample
) -> None:
    fix = verdict("fix", rewrite="better")
    apply(world, sample, fix)
    overruled = verdict("accept", minute=9)
    apply(world, sample, overruled)
    assert (state(world, sample), corrections(world, sample)) == (
        "accepted",
        {"better": "filtered"},
    )
    withdraw(world, overruled)
    assert (state(world, sample), corrections(world, sample)) == ("fixed", {"better": "accepted"})
    withdraw(world, fix)
    assert (state(world, sample), corrections(world, sample)) == (
        "in_review",
        {"better": "filtered"},
    )


def test_a_fix_without_a_rewrite_makes_no_sample(world: World, sample: Sample) -> None:
    apply(world, sample, verdict("fix"))
    assert (state(world, sample), corrections(world, sample)) == ("fixed", {})


def test_a_deletion_of_something_unknown_is_no_error(world: World) -> None:
    with world.database.transaction() as session:
        reviews.withdraw(session, 987_654)


KINDS = st.sampled_from(["accept", "reject", "fix", "skip"])
CHANGE = st.tuples(
    st.integers(0, 2), st.one_of(KINDS, st.just("delete")), st.sampled_from(["r1", "r2", ""])
)


def test_whatever_order_events_come_in_the_end_is_the_latest_live_verdict(
    database: Database,
) -> None:
    """Annotations are made, changed, skipped and deleted; events about them are handled late,
    in any order and several times, each by fetching the annotation as it is then."""
    world = world_in(database)

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        changes=st.lists(CHANGE, min_size=1, max_size=8),
        order=st.randoms(use_true_random=False),
    )
    def converges(changes: list[tuple[int, str, str]], order: Any) -> None:
        (row,) = world.generated(["a text"])
        ids = [next(_ids) for _ in range(3)]
        live: dict[int, Verdict | None] = {}  # None: a skip, which is no verdict
        for minute, (which, kind, rewrite) in enumerate(changes):
            id_ = ids[which]
            if kind == "delete":
                live.pop(id_, None)
            elif kind == "skip":
                live[id_] = None
            else:
                asked = rewrite or None if kind == "fix" else None
                live[id_] = verdict(kind, id_=id_, minute=minute, rewrite=asked)
            if order.random() < 0.4:
                fetch(id_, live, row)
        events = [ids[which] for which, _, _ in changes] * 2
        order.shuffle(events)
        for id_ in events:
            fetch(id_, live, row)
        counted = [one for one in live.values() if one is not None]
        latest = max(counted, key=lambda one: one.updated_at, default=None)
        assert state(world, row) == (
            reviews.STATE_OF[latest.verdict] if latest else expected_without(events, live, row)
        )
        accepted = [text for text, was in corrections(world, row).items() if was == "accepted"]
        wanted = latest.rewrite if latest and latest.verdict == "fix" else None
        assert accepted == ([wanted] if wanted else [])

    def fetch(id_: int, live: dict[int, Verdict | None], row: Sample) -> None:
        now = live.get(id_)
        with database.transaction() as session:
            if now is None:
                reviews.withdraw(session, id_)
            else:
                reviews.apply(session, row.id, now)

    def expected_without(events: list[int], live: dict[int, Any], row: Sample) -> str:
        """A sample that never had a verdict here stays as it was."""
        with database.transaction() as session:
            return "in_review" if reviews.of_sample(session, row.id) else "generated"

    converges()


def test_pushes_wait_until_they_have_a_task(world: World) -> None:
    rows = world.generated(["one", "two", "three"], push=True)
    with world.database.transaction() as session:
        waiting = pushes.waiting(session, world.dataset.id, 2)
        assert [sample.id for _, sample in waiting] == [rows[0].id, rows[1].id]
        pushes.mark_tried(session, [rows[0].id])
        pushes.mark_pushed(session, 7, {rows[0].id: 70})
        pushes.note_error(session, world.dataset.id, "no answer")
    with world.database.transaction() as session:
        ours = reviews.known(session, 7)
        assert {task_id: task.sample_id for task_id, task in ours.items()} == {70: rows[0].id}
        assert reviews.known(session, 7, [71]) == reviews.known(session, 8) == {}
        pushed, other = (session.get_one(Push, row.id) for row in rows[:2])
        left = pushes.waiting(session, world.dataset.id, 9)
    assert (pushed.tried, pushed.task_id, pushed.error) == (True, 70, None)
    assert pushed.pushed_at is not None
    assert (other.tried, other.error) == (False, "no answer")
    assert [sample.id for _, sample in left] == [rows[1].id, rows[2].id]
    assert state(world, rows[0]) == "in_review"
    assert state(world, rows[1]) == "generated"


def test_a_push_that_is_told_late_does_not_undo_a_verdict(world: World) -> None:
    (row,) = world.generated(["one"], push=True)
    apply(world, row, verdict("reject"))
    with world.database.transaction() as session:
        pushes.mark_pushed(session, 9, {row.id: 70})
    assert state(world, row) == "rejected"


def test_an_event_is_stored_once_and_owed_until_it_is_handled(world: World) -> None:
    annotation = {"id": next(_ids), "updated_at": "2026-01-01T00:00:00Z"}
    created = {"action": "ANNOTATION_CREATED", "annotation": annotation, "project": {"id": 3}}
    updated = {
        **created,
        "action": "ANNOTATION_UPDATED",
        "annotation": {**annotation, "updated_at": "2026-01-01T00:00:01Z"},
    }
    deleted = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": annotation["id"]}]}
    with world.database.transaction() as session:
        heard = [reviews.record_event(session, e) for e in (created, created, updated, deleted)]
        event = session.scalars(
            select(WebhookEvent).where(WebhookEvent.annotation_ids == [annotation["id"]])
        ).first()
        assert event is not None
    assert heard == [True, False, True, True]
    with world.database.transaction() as session:
        owed = select(Outbox).where(Outbox.key == event.id)
        assert session.scalars(owed).one().task == outbox.HANDLE_EVENT
        reviews.mark_handled(session, event.id)
        assert session.scalars(owed).all() == []
        assert session.get_one(WebhookEvent, event.id).handled_at is not None


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"action": None, "annotation": 5, "project": []},
        {"action": "X", "annotations": {"id": 1}},
        {"action": "X", "annotations": [5, {"id": "a"}, {"id": 2**40}, {"id": True}]},
    ],
)
def test_an_event_of_nonsense_is_stored_all_the_same(world: World, payload: dict[str, Any]) -> None:
    with world.database.transaction() as session:
        reviews.record_event(session, payload)
        assert not reviews.record_event(session, payload)


def test_figures_of_a_dataset(world: World) -> None:
    rows = world.generated(["a", "b", "c", "d"], push=True)
    apply(world, rows[0], verdict("reject", reasons=("unsafe", "other")))
    apply(world, rows[1], verdict("accept"))
    gone = verdict("reject", reasons=("unsafe",))
    apply(world, rows[2], gone)
    withdraw(world, gone)
    with world.database.transaction() as session:
        stats = reviews.stats(session, world.dataset.id)
        outcomes = reviews.outcomes(session, world.dataset.id)
        page = reviews.list_page(session, world.dataset.id, limit=2)
        rest = reviews.list_page(session, world.dataset.id, before=page[-1].id)
    assert stats["verdicts"] == {"accept": 1, "reject": 1, "fix": 0}
    assert (stats["reasons"]["unsafe"], stats["reasons"]["incoherent"]) == (1, 0)
    assert (stats["reviewed"], stats["waiting"], stats["pushed"]) == (2, 4, 0)
    assert outcomes["guided"] == {"made": 4, "decided": 2, "rejected": 1, "reject_rate": 0.5}
    assert outcomes["audit"]["reject_rate"] is None
    assert len({review.id for review in (*page, *rest)}) == 3
