"""`factory doctor --deep` sets our rows beside what a real Label Studio holds."""

from typing import Any

from factory import outbox
from factory.local.deep import examine

from .conftest import Factory, Made, answer, said


def wrong(factory: Factory, made: Made) -> set[tuple[str, str]]:
    """What is found about these samples."""
    found = examine(factory.settings)
    assert found.unchecked == ()
    mine = {f"sample {id_}": number for number, id_ in enumerate(made.samples)}
    return {(each.invariant, mine[each.row]) for each in found.violations if each.row in mine}


def test_what_was_pushed_and_reviewed_is_the_same_there(factory: Factory) -> None:
    made = factory.make("one", "two", "three", "four")
    made.push()
    api: Any = factory.client._api
    api.annotations.create(made.task(0), result=said("accept", answer("rating", rating=4)))
    api.annotations.create(made.task(1), result=said("reject"))
    api.annotations.create(made.task(2), result=[], was_cancelled=True)
    assert wrong(factory, made) == {("F", 0), ("F", 1)}  # not fetched yet
    factory.handle_events()
    assert wrong(factory, made) == set()

    again = {"text": "four", "sample_id": str(made.samples[3])}
    api.tasks.create(project=made.project, data=again)
    assert wrong(factory, made) == {("E", 3)}


def test_a_task_that_was_deleted_there_is_wrong_until_it_is_noted(factory: Factory) -> None:
    made = factory.make("one", "two")
    made.push()
    api: Any = factory.client._api
    api.tasks.delete(str(made.task(0)))
    assert wrong(factory, made) == {("E", 0)}
    made.reconcile()
    assert not made.owed(outbox.RECONCILE)
    assert wrong(factory, made) == set()
