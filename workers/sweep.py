"""Measures a round of a sweep, and submits the next or says which settings are best."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, undefer

from factory import experiments, search
from factory.db import Database
from factory.errors import Invalid
from factory.spec import SweepSpec
from factory.tables import Job, Sample
from workers.decoding import Trace
from workers.leases import Hold
from workers.metrics import points
from workers.metrics.fit import diagnose
from workers.metrics.measure import Measure
from workers.metrics.points import Tried

PLAIN = 0  # the position of the settings without guidance
SHOWN = 8  # texts of each setting kept to look at, the same ordinals of all
FEWEST_REAL = 20  # real samples that a floor can be taken from


@dataclass(frozen=True)
class Round:
    """What there is to measure: each setting's samples so far, those of round `rung` last."""

    rows: Mapping[int, Sequence[Tried]]
    jobs: Mapping[int, Sequence[uuid.UUID]]
    errors: Mapping[int, str]
    real: Sequence[str]
    probe: Mapping[str, Any]
    result: dict[str, Any]


@dataclass
class SweepRun:
    """One attempt at one round of a sweep."""

    database: Database
    hold: Hold
    job_id: uuid.UUID
    spec: SweepSpec

    def run(self) -> None:
        """Measure the round. Raises LeaseLost, Stopped, and Invalid when nothing was made."""
        rung = self.hold.lease.start
        seen = self.database.retrying(lambda session: self._load(session, rung))
        if not any(seen.rows.values()):
            reason = next(iter(seen.errors.values()), "Every job of it was cancelled.")
            raise Invalid(f"The sweep has made no sample. {reason}")
        result = self._measured(seen, rung)
        is_last = rung + 1 == len(self.spec.rungs())
        if is_last:
            result["recommendation"] = self._recommendation(seen, result)
        following = None if is_last else self._survivors(result, rung)
        self.database.retrying(lambda s: self._keep(s, result, rung + 1, following))

    def _measured(self, seen: Round, rung: int) -> dict[str, Any]:
        floor, kind = self._floor(seen)
        measured = []
        for point in seen.result["points"]:
            position = point["position"]
            self.hold.check()
            if seen.jobs.get(position) and len(seen.jobs[position]) > rung:
                found = points.measures(seen.rows[position], seen.real, floor, self.spec.seed)
                point = {**point, "round": rung, "error": seen.errors.get(position)}
                point["jobs"] = [str(id_) for id_ in seen.jobs[position]]
                point["measures"] = {measure.name: asdict(measure) for measure in found}
                point["texts"] = [row.text for row in seen.rows[position][:SHOWN]]
            measured.append(point)
        result = {**seen.result, "points": measured, "floor": floor, "floor_of": kind}
        plain = measured[PLAIN].get("measures", {})
        by_name = {name: Measure(**found) for name, found in plain.items()}
        fit = diagnose(seen.probe, by_name.get("verbatim"), by_name.get("coherence"))
        return result | {"probe": dict(seen.probe), "fit": asdict(fit)}

    def _floor(self, seen: Round) -> tuple[float | None, str]:
        """What a sample must reach to be plausible, and of which texts it was taken."""
        if seen.probe.get("real", 0) >= FEWEST_REAL:
            return float(seen.probe["floor"]), "real"
        return points.floor_of(seen.rows.get(PLAIN, ())), "plain"

    def _survivors(self, result: dict[str, Any], rung: int) -> list[int]:
        """The best go on; the settings without guidance always do, to compare with."""
        keep = self.spec.rungs()[rung + 1].points
        scores = {at: score for at, score in self._scores(result, rung).items() if at != PLAIN}
        return sorted([PLAIN, *search.best(scores, keep - 1)])

    def _scores(self, result: dict[str, Any], rung: int) -> dict[int, float | None]:
        measured = (point for point in result["points"] if point.get("round") == rung)
        return {
            point["position"]: point["measures"][self.spec.objective]["value"] for point in measured
        }

    def _recommendation(self, seen: Round, result: dict[str, Any]) -> dict[str, Any]:
        """The best of the last round, and how much better than without guidance it is."""
        last = len(self.spec.rungs()) - 1
        [position] = search.best(self._scores(result, last), 1)
        mine, plain = seen.rows[position], seen.rows.get(PLAIN, ())
        floor, objective = result["floor"], self.spec.objective
        more = points.gain(mine, plain, seen.real, floor, objective, self.spec.seed)
        return {
            "position": position,
            "objective": objective,
            "score": result["points"][position]["measures"][objective],
            "gain": asdict(more),
            "sure": more.low is not None and more.low > 0,
        }

    def _load(self, session: Session, rung: int) -> Round:
        made = experiments.tried(session, self.job_id)
        probe = experiments.probe_of(session, self.job_id)
        sweep = session.get_one(Job, self.job_id)
        real = select(Sample.text).where(
            Sample.dataset_id == sweep.dataset_id, Sample.origin == "real"
        )
        return Round(
            rows={at: _tried(session, jobs[: rung + 1]) for at, jobs in made.items()},
            jobs={at: [job.id for job in jobs[: rung + 1]] for at, jobs in made.items()},
            errors={at: job.error for at, jobs in made.items() for job in jobs if job.error},
            real=session.scalars(real).all(),
            probe=(probe.result if probe else None) or {},
            result=dict(sweep.result or {}),
        )

    def _keep(
        self, session: Session, result: dict[str, Any], rung: int, following: Sequence[int] | None
    ) -> None:
        """Store what was found, with the next round's jobs; or use what is recommended."""
        self.hold.renew(session)
        sweep = session.get_one(Job, self.job_id)
        sweep.result = result
        session.flush()
        if following is not None:
            experiments.begin(session, sweep, rung, following)
        elif self.spec.use:
            experiments.use(session, self.job_id)


def _tried(session: Session, jobs: Sequence[Job]) -> list[Tried]:
    """The samples of a setting's jobs, in the order of rounds and ordinals."""
    rows = []
    for rung, job in enumerate(jobs):
        found = select(Sample).where(Sample.job_id == job.id).order_by(Sample.ordinal)
        for sample in session.scalars(found.options(undefer(Sample.trace))):
            key = (rung, sample.ordinal or 0)
            rows.append(Tried(key, sample.text, sample.state, _log_prob(sample.trace)))
    return rows


def _log_prob(trace: bytes | None) -> float | None:
    """Mean log-probability a token under the unguided expert."""
    expert = Trace.from_bytes(trace).expert if trace is not None else ()
    return float(expert.mean()) if len(expert) else None  # type: ignore[union-attr]
