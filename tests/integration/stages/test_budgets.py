"""Budgets: spent at submission, by one at a time, and given back for what was not made."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, update

from factory import budgets, experiments, jobs, tokens
from factory.errors import NotFound, OverBudget
from factory.ids import new_id
from factory.spec import SweepSpec, job_spec
from factory.tables import Job, Outbox, Spend

from .world import World, made


def budget(world: World, amount: int, unit: budgets.Unit = "samples") -> uuid.UUID:
    with world.database.transaction() as session:
        return budgets.put(session, unit, amount, dataset_id=world.dataset.id).id


def spent(world: World, budget_id: uuid.UUID) -> int:
    with world.database.transaction() as session:
        return next(u.spent for u in budgets.uses(session) if u.budget.id == budget_id)


def submit(world: World, count: int, token: uuid.UUID | None = None, key: str | None = None) -> Job:
    body: dict[str, Any] = {"kind": "generate", "dataset": world.dataset.name, "model": "m"}
    body |= {"count": count, "seed": 1, "sampling": {"max_new_tokens": 10}}
    spec, key = job_spec.validate_python(body), key or str(new_id())
    sent = {"request": body, "token_id": token, "idempotency_key": key}
    return world.database.retrying(
        lambda session: jobs.submit(session, spec, world.dataset, world.model, **sent)[0]
    )


def test_what_is_over_the_budget_is_refused_in_words_and_leaves_nothing(world: World) -> None:
    id_ = budget(world, 10)
    submit(world, 8)
    with world.database.transaction() as session:
        before = [session.scalar(select(func.count()).select_from(t)) for t in (Job, Outbox)]
    with pytest.raises(OverBudget) as refused:
        submit(world, 3)
    said = refused.value.detail
    assert f"dataset '{world.dataset.name}' is 10 samples a day" in said
    assert "8 are spent or planned today, and this job may make 3" in said
    assert "Ask for at most 2" in said
    assert 0 < refused.value.retry_after <= 86_400
    with world.database.transaction() as session:
        after = [session.scalar(select(func.count()).select_from(t)) for t in (Job, Outbox)]
    assert (after, spent(world, id_)) == (before, 8)
    submit(world, 2)
    assert spent(world, id_) == 10


def test_those_who_ask_at_once_never_spend_the_same_rest(world: World) -> None:
    id_ = budget(world, 10)

    def ask(_: object) -> bool:
        try:
            submit(world, 3)
        except OverBudget:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        allowed = list(pool.map(ask, range(6)))
    assert (sum(allowed), spent(world, id_)) == (3, 9)


def test_what_a_job_did_not_make_is_given_back(world: World) -> None:
    samples, tokens_ = budget(world, 10), budget(world, 200, "tokens")
    job = submit(world, 6)
    assert (spent(world, samples), spent(world, tokens_)) == (6, 60)
    lease = world.lease(world.shards_of(job)[0])
    world.store(lease, [made(0, "a"), made(1, "b")])
    with world.database.transaction() as session:
        jobs.cancel(session, job.id)
        used = session.get_one(Spend, job.id)
    assert (used.samples, spent(world, samples)) == (2, 2)
    assert used.tokens == spent(world, tokens_) < 60


def test_tokens_are_counted_as_they_may_be_made(world: World) -> None:
    budget(world, 50, "tokens")
    submit(world, 5)
    with pytest.raises(OverBudget, match="50 tokens a day"):
        submit(world, 1)


def test_a_budget_of_a_token_binds_who_uses_it(world: World) -> None:
    with world.database.transaction() as session:
        mine, other = (tokens.create(session, name)[0].id for name in ("mine", "other"))
        budgets.put(session, "samples", 4, token_id=mine)
    submit(world, 4, mine)
    with pytest.raises(OverBudget, match="token 'mine'"):
        submit(world, 1, mine)
    submit(world, 50, other)
    submit(world, 50)


def test_the_budget_of_the_factory_binds_all_and_another_takes_its_place(world: World) -> None:
    with world.database.transaction() as session:
        first = budgets.put(session, "samples", 0)
    try:
        with pytest.raises(OverBudget, match="the whole factory is 0 samples"):
            submit(world, 1)
        with world.database.transaction() as session:
            again = budgets.put(session, "samples", 10**9)
            assert (again.id, again.amount) == (first.id, 10**9)
        submit(world, 1)
    finally:
        with world.database.transaction() as session:
            budgets.remove(session, first.id)
            with pytest.raises(NotFound):
                budgets.remove(session, new_id())


def test_a_repeated_submission_spends_once(world: World) -> None:
    id_, key = budget(world, 5), str(new_id())
    assert submit(world, 5, key=key).id == submit(world, 5, key=key).id
    assert spent(world, id_) == 5


def test_yesterday_counts_no_more(world: World) -> None:
    id_ = budget(world, 5)
    job = submit(world, 5)
    with world.database.transaction() as session:
        yesterday = {"day": Spend.day - 1}
        session.execute(update(Spend).where(Spend.job_id == job.id).values(yesterday))
    assert spent(world, id_) == 0
    submit(world, 5)


def test_a_sweep_spends_for_all_that_it_may_try(world: World) -> None:
    id_ = budget(world, 100)
    body = {"kind": "sweep", "dataset": world.dataset.name, "model": "m", "points": 4, "count": 4}
    spec = job_spec.validate_python(body)
    assert isinstance(spec, SweepSpec)
    with world.database.transaction() as session:
        experiments.submit(session, spec, world.dataset, world.model, request=body)
    planned = sum(rung.points * rung.samples for rung in spec.rungs())
    assert spent(world, id_) == planned
    with world.database.transaction() as session:
        budgets.put(session, "samples", planned, dataset_id=world.dataset.id)
    with pytest.raises(OverBudget), world.database.transaction() as session:
        experiments.submit(session, spec, world.dataset, world.model, request=body)
