"""Budgets: how much may be asked for in a day (UTC), and how much was.

A job spends when it is submitted, in the same transaction: the samples that it plans and the
tokens that it may make at most. When it ends, what it did not make is given back. Submissions
that share a budget wait for each other, so that two never spend the same rest.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Literal, get_args

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from factory.errors import NotFound, OverBudget
from factory.ids import new_id
from factory.spec import AnySpec, GenerateSpec, SweepSpec
from factory.tables import ApiToken, Budget, Dataset, Job, Spend

Unit = Literal["samples", "tokens"]
UNITS: tuple[Unit, ...] = get_args(Unit)
HIGHEST = 10**15  # of any amount


@dataclass(frozen=True)
class Use:
    """A budget, whose it is (neither: the whole factory's), and what is spent of it today."""

    budget: Budget
    dataset: str | None
    token: str | None
    spent: int

    @property
    def left(self) -> int:
        """What may still be asked for today."""
        return max(0, self.budget.amount - self.spent)


def cost(spec: AnySpec) -> dict[str, int]:
    """What a job may make at most; nothing for those that make no samples."""
    if isinstance(spec, GenerateSpec):
        samples = spec.count
    elif isinstance(spec, SweepSpec):
        samples = sum(rung.points * rung.samples for rung in spec.rungs())
    else:
        return dict.fromkeys(UNITS, 0)
    return {"samples": samples, "tokens": samples * spec.sampling.max_new_tokens}


def spend(session: Session, job: Job, spec: AnySpec, token_id: uuid.UUID | None) -> None:
    """Spend what a new job may make. Raises OverBudget: nothing of the transaction is to stay."""
    wanted = cost(spec)
    if not any(wanted.values()):
        return
    today = _today(session)
    applying = or_(Budget.dataset_id == job.dataset_id, _of_all())
    if token_id is not None:
        applying = or_(applying, Budget.token_id == token_id)
    locked = select(Budget).where(applying).order_by(Budget.id).with_for_update()
    for budget in session.scalars(locked):
        spent = _spent(session, budget, today)
        if spent + wanted[budget.unit] > budget.amount:
            raise _refusal(session, budget, spent, wanted[budget.unit])
    session.add(
        Spend(job_id=job.id, dataset_id=job.dataset_id, token_id=token_id, day=today, **wanted)
    )
    session.flush()


def settle(session: Session, job_id: uuid.UUID, samples: int, tokens: int) -> None:
    """A job has ended with so much made: the rest is given back to the day it was spent on."""
    made = {"samples": samples, "tokens": tokens}
    session.execute(update(Spend).where(Spend.job_id == job_id).values(made))


def put(
    session: Session,
    unit: Unit,
    amount: int,
    *,
    dataset_id: uuid.UUID | None = None,
    token_id: uuid.UUID | None = None,
) -> Budget:
    """Set a budget, in place of the one that there is: a dataset's, a token's, or, with neither,
    the whole factory's."""
    whose = {"dataset_id": dataset_id, "token_id": token_id, "unit": unit}
    new = insert(Budget).values({"id": new_id(), "amount": amount, **whose})
    changed = new.on_conflict_do_update(index_elements=[*whose], set_={"amount": amount})
    return session.scalars(
        changed.returning(Budget), execution_options={"populate_existing": True}
    ).one()


def remove(session: Session, budget_id: uuid.UUID) -> Budget:
    """Take a budget away. Raises NotFound."""
    budget = session.get(Budget, budget_id)
    if budget is None:
        raise NotFound(f"There is no budget {budget_id}.")
    session.delete(budget)
    return budget


def uses(session: Session, dataset_id: uuid.UUID | None = None) -> Sequence[Use]:
    """Every budget with its use today; with `dataset_id`, those that its jobs spend whoever
    submits them."""
    statement = (
        select(Budget, Dataset.name, ApiToken.name)
        .outerjoin(Dataset, Dataset.id == Budget.dataset_id)
        .outerjoin(ApiToken, ApiToken.id == Budget.token_id)
        .order_by(Budget.id)
    )
    if dataset_id is not None:
        statement = statement.where(or_(Budget.dataset_id == dataset_id, _of_all()))
    today = _today(session)
    return [
        Use(budget, dataset, token, _spent(session, budget, today))
        for budget, dataset, token in session.execute(statement)
    ]


def today(session: Session) -> dict[str, int]:
    """What was spent today in all, by unit."""
    sums = [func.coalesce(func.sum(getattr(Spend, unit)), 0) for unit in UNITS]
    row = session.execute(select(*sums).where(Spend.day == _today(session))).one()
    return {unit: int(number) for unit, number in zip(UNITS, row, strict=True)}


def _of_all() -> ColumnElement[bool]:
    return and_(Budget.dataset_id.is_(None), Budget.token_id.is_(None))


def _spent(session: Session, budget: Budget, day: date) -> int:
    column = getattr(Spend, budget.unit)
    statement = select(func.coalesce(func.sum(column), 0)).where(Spend.day == day)
    if budget.dataset_id is not None:
        statement = statement.where(Spend.dataset_id == budget.dataset_id)
    if budget.token_id is not None:
        statement = statement.where(Spend.token_id == budget.token_id)
    return int(session.scalar(statement) or 0)


def _today(session: Session) -> date:
    """By the database's clock, in UTC."""
    now: datetime = session.scalars(select(func.clock_timestamp())).one()
    return now.astimezone(UTC).date()


def _refusal(session: Session, budget: Budget, spent: int, wanted: int) -> OverBudget:
    of = "the whole factory"
    if budget.dataset_id is not None:
        of = f"dataset '{session.get_one(Dataset, budget.dataset_id).name}'"
    if budget.token_id is not None:
        of = f"token '{session.get_one(ApiToken, budget.token_id).name}'"
    now = session.scalars(select(func.clock_timestamp())).one().astimezone(UTC)
    midnight = datetime.combine(now.date() + timedelta(days=1), time(), UTC)
    return OverBudget(
        f"The budget of {of} is {budget.amount:,} {budget.unit} a day. {spent:,} are spent or "
        f"planned today, and this job may make {wanted:,}. Ask for at most "
        f"{max(0, budget.amount - spent):,}, try again after 00:00 UTC, or raise the budget.",
        retry_after=(midnight - now).total_seconds(),
    )
