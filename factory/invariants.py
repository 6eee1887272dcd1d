"""What must always be true, checked on the rows of a live database. Nothing is changed.

    A  every accepted submission is one job with all its shards
    B  a finished shard has exactly its ordinals, each once, and no other shard has them
    C  every job comes to an end: what is unfinished is held by a worker or owed to one
    D  what is noted of a job or a sample is what a recount says
    E  every pushed sample has one task in Label Studio
    F  a sample's state is what its reviews say

`violations` looks at the database alone; `task_violations` sets one Label Studio project beside
it (E and F). Each offending row is named.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from factory.tables import Dataset, Push, Review

GRACE_SECONDS = 60.0  # how long an expired lease may wait for a reaper


@dataclass(frozen=True)
class Violation:
    """One row for which an invariant does not hold."""

    invariant: str
    row: str
    detail: str


@dataclass(frozen=True)
class Task:
    """A task as Label Studio holds it: `verdicts` are (annotation id, verdict, last change)."""

    id: int
    sample_id: str
    verdicts: tuple[tuple[int, str, datetime], ...] = ()


@dataclass(frozen=True)
class Check:
    """A query for offending rows: (row, detail). `:grace` stands for GRACE_SECONDS."""

    invariant: str
    query: str


def violations(session: Session, grace_seconds: float = GRACE_SECONDS) -> list[Violation]:
    """Every row of the database that breaks an invariant, in the order of the invariants.

    Of a database in use, give it a session of `Database.snapshot`: work that goes on meanwhile
    is then seen whole or not at all.
    """
    return [each for check in CHECKS for each in find(session, check, grace_seconds)]


def find(
    session: Session, check: Check, grace_seconds: float = GRACE_SECONDS
) -> Sequence[Violation]:
    """The rows that one check finds."""
    values = {"grace": grace_seconds} if ":grace" in check.query else {}
    rows = session.execute(text(check.query), values)
    return [Violation(check.invariant, row, detail) for row, detail in rows]


def projects(session: Session) -> Mapping[uuid.UUID, int]:
    """The Label Studio project of every dataset that has one."""
    statement = select(Dataset.id, Dataset.label_studio_project)
    return {id_: project for id_, project in session.execute(statement) if project is not None}


def task_violations(session: Session, project: int, tasks: Iterable[Task]) -> list[Violation]:
    """Where our rows differ from what Label Studio holds: `tasks` are all of the project's.

    What was annotated since the last reconcile differs too: reconcile first.
    """
    there: dict[str, list[Task]] = {}
    for task in tasks:
        there.setdefault(task.sample_id, []).append(task)
    pushes = session.scalars(select(Push).where(Push.project_id == project)).all()
    live = _live_verdicts(session, project)
    found = [each for push in pushes for each in _push_violations(push, there, live)]
    strangers = set(there) - {str(push.sample_id) for push in pushes}
    return found + [
        Violation("E", f"task {task.id}", f"is of sample {id_}, which was not pushed")
        for id_ in sorted(strangers)
        for task in there[id_]
    ]


def _push_violations(
    push: Push, there: Mapping[str, list[Task]], live: Mapping[str, set[tuple[int, str, datetime]]]
) -> Iterator[Violation]:
    sample_id = str(push.sample_id)
    tasks, row = there.get(sample_id, []), f"sample {sample_id}"
    gone = push.error is not None  # deleted in Label Studio, and noted so
    if len(tasks) != (0 if gone else 1):
        yield Violation("E", row, f"has {len(tasks)} tasks in Label Studio")
    elif tasks and tasks[0].id != push.task_id:
        yield Violation("E", row, f"is task {tasks[0].id}, not {push.task_id} as noted")
    said = {verdict for task in tasks for verdict in task.verdicts}
    ours = live.get(sample_id, set())
    if said != ours:
        yield Violation("F", row, f"has reviews {_short(ours)}, Label Studio {_short(said)}")


def _live_verdicts(session: Session, project: int) -> dict[str, set[tuple[int, str, datetime]]]:
    statement = (
        select(Review.sample_id, Review.annotation_id, Review.verdict, Review.updated_at)
        .join(Push, Push.sample_id == Review.sample_id)
        .where(Push.project_id == project, Review.deleted_at.is_(None))
    )
    live: dict[str, set[tuple[int, str, datetime]]] = {}
    for sample_id, annotation_id, verdict, updated_at in session.execute(statement).tuples():
        if annotation_id is not None:
            live.setdefault(str(sample_id), set()).add((annotation_id, verdict, updated_at))
    return live


def _short(verdicts: Iterable[tuple[int, str, datetime]]) -> str:
    named = (f"{verdict} (annotation {id_}, {at:%FT%TZ})" for id_, verdict, at in sorted(verdicts))
    return ", ".join(named) or "none"


SHARDS_COVER = """
SELECT 'job ' || j.id, 'its shards do not cover its ' || j.count || ' ordinals once'
FROM jobs j
LEFT JOIN (
  SELECT job_id, sum(stop - start) AS covered, min(start) AS first, max(stop) AS last,
         bool_and(start = before) AS joined
  FROM (SELECT *, coalesce(lag(stop) OVER (PARTITION BY job_id ORDER BY index), 0) AS before
        FROM shards) ordered
  GROUP BY job_id
) s ON s.job_id = j.id
WHERE s.job_id IS NULL OR NOT s.joined OR s.first <> 0 OR s.last <> j.count OR s.covered <> j.count
"""
OUT_OF_PLACE = """
SELECT 'sample ' || s.id, 'its ordinal ' || s.ordinal || ' is not one of its shard''s'
FROM samples s
LEFT JOIN shards h ON h.id = s.shard_id
LEFT JOIN attempts a ON a.id = s.attempt_id
WHERE s.origin = 'synthetic'
  AND (h.job_id IS DISTINCT FROM s.job_id OR a.shard_id IS DISTINCT FROM s.shard_id
       OR s.ordinal < h.start OR s.ordinal >= h.stop)
"""
TWICE = """
SELECT 'job ' || job_id, 'ordinal ' || ordinal || ' is stored ' || count(*) || ' times'
FROM (SELECT job_id, ordinal FROM samples WHERE job_id IS NOT NULL
      UNION ALL SELECT job_id, ordinal FROM failures) stored
GROUP BY job_id, ordinal HAVING count(*) > 1
"""
UNFINISHED_SHARD = """
SELECT 'shard ' || h.id, 'is done, but has ' || made.number || ' of its ' || h.stop - h.start
FROM shards h
JOIN jobs j ON j.id = h.job_id AND j.kind = 'generate'
CROSS JOIN LATERAL (
  SELECT (SELECT count(*) FROM samples s WHERE s.job_id = h.job_id
          AND s.ordinal >= h.start AND s.ordinal < h.stop)
       + (SELECT count(*) FROM failures f WHERE f.job_id = h.job_id
          AND f.ordinal >= h.start AND f.ordinal < h.stop) AS number
) made
WHERE h.state = 'done' AND made.number <> h.stop - h.start
"""
UNFINISHED_JOB = """
SELECT 'job ' || j.id, 'is ' || j.state || ', but has ' || made.number || ' of ' || j.count
FROM jobs j
CROSS JOIN LATERAL (SELECT count(*) AS number FROM samples s WHERE s.job_id = j.id) made
WHERE j.kind = 'generate'
  AND (j.state = 'succeeded' AND made.number <> j.count
       OR j.state = 'partial' AND made.number NOT BETWEEN 1 AND j.count - 1)
"""
OPEN_SHARD = """
SELECT 'job ' || j.id, 'is ' || j.state || ', but shard ' || h.index || ' is ' || h.state
FROM jobs j JOIN shards h ON h.job_id = j.id
WHERE j.state IN ('succeeded', 'partial') AND h.state IN ('pending', 'leased')
"""
NEVER_ENDED = """
SELECT 'job ' || j.id, 'is ' || j.state || ', but every shard has ended'
FROM jobs j
WHERE j.state IN ('pending', 'running', 'paused')
  AND EXISTS (SELECT FROM shards h WHERE h.job_id = j.id)
  AND NOT EXISTS (SELECT FROM shards h WHERE h.job_id = j.id AND h.state IN ('pending', 'leased'))
"""
NO_END = """
SELECT 'job ' || id, 'is ' || state || ', but ended at ' || coalesce(ended_at::text, 'no time')
FROM jobs WHERE (state IN ('pending', 'running', 'paused')) <> (ended_at IS NULL)
"""
FORGOTTEN_SHARD = """
SELECT 'shard ' || h.id, 'is pending, but no worker is owed its wake-up'
FROM shards h JOIN jobs j ON j.id = h.job_id AND j.state IN ('pending', 'running')
WHERE h.state = 'pending'
  AND NOT EXISTS (
    SELECT FROM outbox o WHERE o.key = h.id
    AND o.task = CASE WHEN j.kind IN ('evaluate', 'sweep') THEN 'workers.cpu.run_shard'
                 ELSE 'workers.gpu.run_shard' END)
  AND NOT (j.kind = 'sweep' AND (
    EXISTS (SELECT FROM jobs c WHERE c.parent_id = j.id
            AND c.state IN ('pending', 'running', 'paused'))
    OR EXISTS (SELECT FROM shards e WHERE e.job_id = j.id AND e.index < h.index
               AND e.state IN ('pending', 'leased'))))
"""
OVERDUE_LEASE = """
SELECT 'shard ' || id, 'is leased by ' || worker || ' until ' || lease_until || ': nobody reaps'
FROM shards
WHERE state = 'leased'
  AND (lease_until IS NULL OR lease_until < clock_timestamp() - make_interval(secs => :grace))
"""
FORGOTTEN_REQUEST = """
SELECT 'request ' || r.id, 'waits, but no worker is owed its wake-up'
FROM requests r
WHERE r.done_at IS NULL
  AND NOT EXISTS (SELECT FROM outbox o WHERE o.task = 'workers.gpu.serve' AND o.key = r.id)
"""
FORGOTTEN_EVENT = """
SELECT 'webhook event ' || e.id, 'waits, but no worker is owed its wake-up'
FROM webhook_events e
WHERE e.handled_at IS NULL
  AND NOT EXISTS (SELECT FROM outbox o WHERE o.task = 'workers.cpu.handle_event' AND o.key = e.id)
"""
FORGOTTEN_PUSH = """
SELECT 'sample ' || p.sample_id, 'waits for its task, but no worker is owed the push'
FROM pushes p
WHERE p.task_id IS NULL
  AND NOT EXISTS (
    SELECT FROM outbox o WHERE o.task = 'workers.cpu.push' AND o.key = p.dataset_id)
"""
FORGOTTEN_EMBEDDING = """
SELECT 'sample ' || s.id, 'has no embedding, and no worker is owed it'
FROM samples s
WHERE s.embedding IS NULL
  AND NOT EXISTS (
    SELECT FROM outbox o WHERE o.task = 'workers.cpu.embed' AND o.key = s.dataset_id)
"""
LENGTH = """
SELECT 'sample ' || id, 'is said to have ' || token_count || ' tokens, it has '
       || cardinality(token_ids)
FROM samples WHERE token_count <> cardinality(token_ids)
"""
TEXT_DIGEST = """
SELECT 'sample ' || id, 'its text is not what its digest was taken of'
FROM samples WHERE text_sha256 <> sha256(convert_to(text, 'UTF8'))
"""
NOT_STEERED = """
SELECT 'job ' || j.id, 'says that ' || (j.result->>'without_negatives')
       || ' samples were not steered; ' || alone.number || ' were not'
FROM jobs j
CROSS JOIN LATERAL (
  SELECT count(*) AS number FROM samples s WHERE s.job_id = j.id AND NOT s.audit
  AND NOT EXISTS (
    SELECT FROM sample_negatives n WHERE n.sample_id = s.id AND n.role = 'negative')
) alone
WHERE j.kind = 'generate' AND (j.result->>'without_negatives')::int <> alone.number
"""
MISCOUNTED = """
SELECT 'dataset ' || dataset_id, 'counts ' || sum(noted) || ' samples as ' || facts
       || '; there are ' || sum(there)
FROM (
  SELECT dataset_id, facts, number AS noted, 0 AS there FROM tallies WHERE subject = 'sample'
  UNION ALL
  SELECT dataset_id, jsonb_build_object('origin', origin, 'state', state, 'audit', audit), 0, 1
  FROM samples
) counted
GROUP BY dataset_id, facts HAVING sum(noted) <> sum(there)
"""
MISCOUNTED_REVIEWS = """
SELECT 'dataset ' || dataset_id, 'counts ' || sum(noted) || ' live reviews with verdict ' || verdict
       || '; there are ' || sum(there)
FROM (
  SELECT dataset_id, facts->>'verdict' AS verdict, number AS noted, 0 AS there
  FROM tallies WHERE subject = 'review'
  UNION ALL
  SELECT s.dataset_id, r.verdict, 0, 1
  FROM reviews r JOIN samples s ON s.id = r.sample_id WHERE r.deleted_at IS NULL
) counted
GROUP BY dataset_id, verdict HAVING sum(noted) <> sum(there)
"""
MISCOUNTED_PUSHES = """
SELECT 'dataset ' || dataset_id, 'counts ' || sum(noted) || ' pushes '
       || CASE WHEN pushed THEN 'with' ELSE 'without' END || ' a task; there are ' || sum(there)
FROM (
  SELECT dataset_id, (facts->>'pushed')::bool AS pushed, number AS noted, 0 AS there
  FROM tallies WHERE subject = 'push'
  UNION ALL
  SELECT dataset_id, task_id IS NOT NULL, 0, 1 FROM pushes
) counted
GROUP BY dataset_id, pushed HAVING sum(noted) <> sum(there)
"""
SHARED_TASK = """
SELECT 'task ' || task_id, 'is noted for ' || count(*) || ' samples of project ' || project_id
FROM pushes WHERE task_id IS NOT NULL AND project_id IS NOT NULL
GROUP BY project_id, task_id HAVING count(*) > 1
"""
HALF_PUSHED = """
SELECT 'sample ' || s.id, 'is ' || s.state
       || CASE WHEN p.task_id IS NULL THEN ' without a task' ELSE ' with a task' END
FROM samples s LEFT JOIN pushes p ON p.sample_id = s.id
WHERE s.origin = 'synthetic' AND s.state <> 'filtered'
  AND (s.state = 'generated') <> (p.task_id IS NULL)
"""
STATE = """
SELECT 'sample ' || s.id, 'is ' || s.state || ', its reviews say ' || said.state
FROM samples s
JOIN pushes p ON p.sample_id = s.id AND p.task_id IS NOT NULL
CROSS JOIN LATERAL (
  SELECT coalesce((
    SELECT CASE r.verdict WHEN 'accept' THEN 'accepted' WHEN 'reject' THEN 'rejected'
           ELSE 'fixed' END
    FROM reviews r WHERE r.sample_id = s.id AND r.deleted_at IS NULL
    ORDER BY r.updated_at DESC, r.annotation_id DESC LIMIT 1), 'in_review') AS state
) said
WHERE s.state NOT IN ('generated', said.state)
"""
CORRECTION = """
SELECT 'sample ' || s.id, 'has ' || live.number || ' live corrections, its reviews ask for '
       || (latest.rewrite IS NOT NULL)::int
FROM samples s
JOIN pushes p ON p.sample_id = s.id
LEFT JOIN LATERAL (
  SELECT r.rewrite FROM (
    SELECT * FROM reviews r WHERE r.sample_id = s.id AND r.deleted_at IS NULL
    ORDER BY r.updated_at DESC, r.annotation_id DESC LIMIT 1) r
  WHERE r.verdict = 'fix' AND r.rewrite <> ''
) latest ON true
CROSS JOIN LATERAL (
  SELECT count(*) AS number, bool_and(c.text = latest.rewrite) AS same
  FROM samples c WHERE c.corrects = s.id AND c.state <> 'filtered'
) live
WHERE live.number <> (latest.rewrite IS NOT NULL)::int OR live.same IS FALSE
"""

CHECKS = (
    Check("A", SHARDS_COVER),
    Check("B", OUT_OF_PLACE),
    Check("B", TWICE),
    Check("B", UNFINISHED_SHARD),
    Check("B", UNFINISHED_JOB),
    Check("C", OPEN_SHARD),
    Check("C", NEVER_ENDED),
    Check("C", NO_END),
    Check("C", FORGOTTEN_SHARD),
    Check("C", OVERDUE_LEASE),
    Check("C", FORGOTTEN_REQUEST),
    Check("C", FORGOTTEN_EVENT),
    Check("C", FORGOTTEN_PUSH),
    Check("C", FORGOTTEN_EMBEDDING),
    Check("D", LENGTH),
    Check("D", TEXT_DIGEST),
    Check("D", NOT_STEERED),
    Check("D", MISCOUNTED),
    Check("D", MISCOUNTED_REVIEWS),
    Check("D", MISCOUNTED_PUSHES),
    Check("E", SHARED_TASK),
    Check("E", HALF_PUSHED),
    Check("F", STATE),
    Check("F", CORRECTION),
)
