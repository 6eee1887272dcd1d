"""What may happen between the factory and Label Studio, or there. Each row harms the way of some
samples, lets it pass, and returns when all should be well again."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from .http_proxy import Harm, Seen
from .review_floor import TOKEN, Floor, Made, said
from .run import Result

SAMPLES = 6  # in each dataset
Act = Callable[[Floor, random.Random], Made]


@dataclass(frozen=True)
class ReviewRow:
    """One kind of harm, and how often it is done in the whole suite."""

    name: str
    act: Act
    times: int = 5


def made(floor: Floor, rng: random.Random) -> Made:
    return floor.make(*(f"text {number} {rng.random()}" for number in range(SAMPLES)))


def pushed(floor: Floor, rng: random.Random) -> Made:
    fresh = made(floor, rng)
    floor.until("the push", fresh.is_pushed)
    return fresh


def down(floor: Floor, rng: random.Random) -> Made:
    """No call is answered; calls become few, jobs are still taken, and all says so."""
    with floor.proxy.harming(Harm(cut=True)) as harm:
        fresh = made(floor, rng)
        floor.until("three calls", lambda: harm.done >= 3)
        floor.until("the word of it", lambda: _is_degraded(floor))
        before = harm.done
        time.sleep(rng.uniform(1, 2))
        assert harm.done - before <= 8, f"{harm.done - before} calls in 2 s of an outage"
        assert floor.get("/readyz").status_code == 200
        assert 'factory_degraded{part="label_studio"} 1.0' in floor.get("/metrics").text
        assert set(fresh.states()) == {"generated"}
    floor.until("the push", fresh.is_pushed)
    floor.until("the all-clear", lambda: not _is_degraded(floor))
    return fresh


def slow(floor: Floor, rng: random.Random) -> Made:
    with floor.proxy.harming(Harm(delay=rng.uniform(0.5, 1.5), times=4)):
        return pushed(floor, rng)


def failing(floor: Floor, rng: random.Random) -> Made:
    """500 or 503 to some calls in a row."""
    harm = Harm(status=rng.choice((500, 502, 503)), times=rng.randint(1, 5))
    with floor.proxy.harming(harm):
        return pushed(floor, rng)


def too_many(floor: Floor, rng: random.Random) -> Made:
    """429 with Retry-After: nobody calls before that is over."""
    harm = Harm(status=429, headers={"Retry-After": "2"}, times=1)
    with floor.proxy.harming(harm):
        fresh = made(floor, rng)
        floor.until("the refusal", lambda: harm.done == 1)
        refused = floor.proxy.seen[-1].at
        floor.until("the push", fresh.is_pushed)
    early = [seen for seen in floor.proxy.seen if 0.2 < seen.at - refused < 1.9]
    assert early == [], f"asked again after {early[0].at - refused:.1f} s"
    return fresh


def _imports(seen: Seen) -> bool:
    return seen.is_import


def lost_reply(floor: Floor, rng: random.Random) -> Made:
    """The tasks are made, and the reply is lost."""
    with floor.proxy.harming(Harm(swallow=True, times=1, picks=_imports)):
        return pushed(floor, rng)


def early_end(floor: Floor, rng: random.Random) -> Made:
    """The connection ends before Label Studio has begun to make the tasks, and they are sent again:
    they are made twice, and the doubles are deleted by reconciling."""
    before = _imports_so_far(floor)
    sent_again = lambda: _imports_so_far(floor) >= before + 2  # noqa: E731
    with floor.proxy.harming(Harm(after=sent_again, times=1, picks=_imports)):
        fresh = pushed(floor, rng)
    floor.until("the doubles", lambda: len(_tasks_of(floor, fresh)) == 2 * SAMPLES)
    return fresh


def _imports_so_far(floor: Floor) -> int:
    return sum(seen.is_import for seen in floor.proxy.seen)


def torn_reply(floor: Floor, rng: random.Random) -> Made:
    """Answers break off in their middle."""
    with floor.proxy.harming(Harm(tear=True, times=rng.randint(1, 4))):
        return pushed(floor, rng)


def killed_worker(floor: Floor, rng: random.Random) -> Made:
    """kill -9 of the CPU worker while Label Studio makes the tasks."""
    harm = Harm(delay=rng.uniform(0.1, 0.8), times=1, picks=_imports)
    with floor.proxy.harming(harm):
        fresh = made(floor, rng)
        floor.until("the import", lambda: harm.done == 1)
        floor.kill("cpu")
        time.sleep(harm.delay)
    floor.start("cpu")
    floor.until("the push", fresh.is_pushed)
    return fresh


def reviewed(floor: Floor, rng: random.Random) -> Made:
    """Three are reviewed, and known."""
    fresh = pushed(floor, rng)
    for sample, verdict in enumerate(("accept", "reject", "fix")):
        fresh.annotate(sample, verdict)
    floor.until("the reviews", lambda: fresh.reviews() == 3)
    return fresh


def deleted_task(floor: Floor, rng: random.Random) -> Made:
    fresh = reviewed(floor, rng)
    floor.there._api.tasks.delete(str(fresh.task(rng.randrange(3))))
    fresh.reconcile()
    assert fresh.reviews() == 2
    return fresh


def deleted_annotation(floor: Floor, rng: random.Random) -> Made:
    """While nobody hears of it: the web process is away."""
    fresh = pushed(floor, rng)
    annotations = [fresh.annotate(sample, "reject") for sample in range(3)]
    floor.until("the reviews", lambda: fresh.reviews() == 3)
    floor.kill("web")
    floor.there._api.annotations.delete(annotations[rng.randrange(3)])
    floor.start("web")
    fresh.reconcile()
    floor.until("the web process", floor.web_answers)
    assert fresh.states().count("rejected") == 2
    return fresh


def deleted_project(floor: Floor, rng: random.Random) -> Made:
    """Reviews stay; what has none is pushed into a new project, once."""
    fresh = reviewed(floor, rng)
    before, first = fresh.states(), fresh.project
    floor.there._api.projects.delete(first)
    fresh.reconcile()
    floor.until("another push", fresh.is_pushed)
    assert fresh.project != first
    assert fresh.states() == before == ["accepted", "rejected", "fixed", *["in_review"] * 3]
    return fresh


def killed_web(floor: Floor, rng: random.Random) -> Made:
    """kill -9 of the web process as soon as it has answered: what it answered to is stored."""
    fresh = pushed(floor, rng)
    for sample in range(3):
        fresh.annotate(sample, "reject")
    floor.kill("web")
    floor.until("the reviews", lambda: fresh.reviews() == 3)
    floor.start("web")
    floor.until("the web process", floor.web_answers)
    return fresh


def replayed_events(floor: Floor, rng: random.Random) -> Made:
    """Every event three times more in any order, and once more after it was forgotten."""
    fresh = reviewed(floor, rng)
    floor.there._api.annotations.update(fresh.annotate(3, "accept"), result=said("reject"))
    floor.until("the change", lambda: fresh.states()[3] == "rejected")
    states, events = fresh.states(), fresh.events()
    assert len(events) >= 5
    sent = events * 3
    rng.shuffle(sent)
    assert {floor.tell(event).status_code for event in sent} == {204}
    assert len(fresh.events()) == len(events)
    fresh.forget_events()
    rng.shuffle(events)
    assert {floor.tell(event).status_code for event in events} == {204}
    floor.until("all handled", lambda: len(fresh.events(handled=True)) == len(events))
    assert (fresh.states(), fresh.reviews()) == (states, 4)
    return fresh


def forged_events(floor: Floor, rng: random.Random) -> Made:
    """Without the secret nothing is stored and nothing fetched; too long a body neither."""
    fresh = reviewed(floor, rng)
    event, *_ = fresh.events()
    before = len(fresh.events()), len(floor.proxy.seen)
    for number in range(20):
        forged = {**event, "action": f"FORGED_{number}"}
        secret = rng.choice(("", "Bearer", f"Bearer {rng.random()}", f"Bearer {TOKEN}"))
        assert floor.tell(forged, secret).status_code == 401
    assert floor.tell({**event, "more": "x" * 2_000_000}).status_code == 413
    time.sleep(1)
    assert (len(fresh.events()), len(floor.proxy.seen)) == before
    return fresh


def _is_degraded(floor: Floor) -> bool:
    said = floor.get("/readyz").json()["degraded"]
    return any("label_studio" in each and "since" in each for each in said)


ROWS = (
    ReviewRow("Label Studio down", down),
    ReviewRow("Label Studio slow", slow),
    ReviewRow("Label Studio answers 5xx", failing),
    ReviewRow("Label Studio answers 429", too_many),
    ReviewRow("the reply to an import lost", lost_reply),
    ReviewRow("an import cut off before it is done", early_end),
    ReviewRow("answers torn in the middle", torn_reply),
    ReviewRow("kill -9 of the CPU worker in an import", killed_worker, times=25),
    ReviewRow("a task deleted there", deleted_task),
    ReviewRow("an annotation deleted there", deleted_annotation),
    ReviewRow("the project deleted there", deleted_project),
    ReviewRow("kill -9 of the web process after an event", killed_web, times=25),
    ReviewRow("events replayed in any order", replayed_events),
    ReviewRow("events forged and too long", forged_events),
)


def run_row(floor: Floor, row: ReviewRow, times: int, seed: int) -> Result:
    """Do a row's harm `times` times, reconcile once, and compare with Label Studio."""
    rng = random.Random(f"{row.name} {seed}")
    done, worst = [], 0.0
    for _ in range(times):
        started = time.monotonic()
        done.append(row.act(floor, rng))
        worst = max(worst, time.monotonic() - started)
    for each in done:
        each.reconcile()
    tasks = [_tasks_of(floor, each) for each in done]
    wrong = floor.wrong(*done)
    return Result(
        row=row.name,
        seed=seed,
        faults=times,
        jobs=len(done),
        planned=sum(map(_expected, done)),
        stored=sum(map(len, tasks)),
        worst_takeover=0.0,
        worst_recovery=round(worst, 1),
        doubled=sum(len(each) - len(set(each)) for each in tasks),
        lost=sum(_expected(d) - len(set(t)) for d, t in zip(done, tasks, strict=True)),
        unfinished=sum(not each.is_pushed() for each in done),
        leaks=(),
        wrong=tuple(wrong),
    )


def _tasks_of(floor: Floor, each: Made) -> list[str]:
    """The sample of every task that Label Studio has for a dataset."""
    return [str(task.sample_id) for page in floor.there.all_tasks(each.project) for task in page]


def _expected(each: Made) -> int:
    """How many tasks there should be: one for each sample, those deleted there apart, and those
    that were reviewed in a project which is gone."""
    return sum(push.error is None and push.project_id is not None for push in each.pushes())
