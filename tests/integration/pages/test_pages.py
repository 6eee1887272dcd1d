"""Every page, with and without data; hostile text; errors in words."""

import json
import re
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from apiflask import APIFlask
from sqlalchemy import delete, update

from factory import (
    budgets,
    circuits,
    datasets,
    jobs,
    near_copies,
    negatives,
    outbox,
    pushes,
    requests,
    reviews,
    samples,
    shards,
    tokens,
)
from factory.db import Database
from factory.settings import Settings
from factory.spec import GenerateSpec
from factory.tables import Job, ModelPair, Outbox, Push
from factory.web import create_app

from .conftest import TOKEN, Html, Visitor, work_off

PAGES = (
    *("/", "/health", "/health/chip", "/health/notes", "/datasets/new", "/jobs", "/jobs/new"),
    "/playground",
    "/map",
    *("/samples", "/review", "/models", "/settings", "/jobs/compare"),
)
HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg/onload=alert(1)>",
    "</textarea></pre></title><script>alert(1)</script>",
    "javascript:alert(1)",
    "{{ 7*7 }}{% raw %}",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<a hx-get='/logout' hx-trigger='load'>",
    "<style>*{display:none}</style>",
    "\u202e\u2028<b>bold</b>&lt;",
)
OWN_ADDRESSES = ("/overview/now", "/map/", "/health", "/jobs/", "/samples/", "/playground")
OWN_SCRIPTS = {
    "/static/vendor/htmx-2.0.11.min.js",
    "/static/app.js",
    "/static/map.js",
    "/static/early.js",
}


@pytest.fixture(scope="module")
def empty(postgres_url: str, app: APIFlask) -> Visitor:
    """A visitor of a factory in which nothing was made; used before any other test here."""
    return Visitor(app.test_client()).log_in()


@pytest.mark.parametrize("path", PAGES)
def test_every_page_renders_without_data(empty: Visitor, path: str) -> None:
    answer = empty.get(path)
    assert answer.status_code == 200
    assert_inert(answer.text)


def test_the_empty_overview_leads_to_the_first_job(empty: Visitor) -> None:
    assert Html(empty.get("/").text).links("/datasets/new")
    assert Html(empty.get("/jobs/new").text).links("/datasets/new")


def assert_inert(source: str) -> Html:
    """Nothing on the page runs but our own scripts, and no style stands in it."""
    page = Html(source)
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "style", "img", "base"), tag
        if tag == "script":
            assert attributes.get("src") in OWN_SCRIPTS
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name != "style"
            if name in ("href", "src", "action"):
                assert not (value or "").strip().lower().startswith("javascript:")
            if name in ("hx-get", "hx-post"):
                assert (value or "").startswith(OWN_ADDRESSES)
    return page


@pytest.fixture(scope="module")
def hostile(db: Database) -> dict[str, str]:
    """A factory whose every text is hostile; the addresses that show them."""
    text = " ".join(HOSTILE)
    with db.transaction() as session:
        tokens.create(session, text)
        dataset = datasets.create(session, "hostile", text, text, list(HOSTILE))
        dataset.label_studio_project = 3
        budgets.put(session, "samples", 1000, dataset_id=dataset.id)
        lines = [json.dumps({"text": each, "label": each}).encode() for each in HOSTILE]
        datasets.import_lines(session, dataset, lines)
        pair = ModelPair(name="hostile", base=text, expert=text, revision=text)
        session.add(pair)
        session.flush()
        spec = GenerateSpec(
            kind="generate", dataset="hostile", model="hostile", count=len(HOSTILE), seed=1,
            prompt=text, sampling={"stop": HOSTILE[:2]},
        )  # fmt: skip
        job, _ = jobs.submit(session, spec, dataset, pair, request={})
    made = work_off(db, job.id, list(HOSTILE))
    with db.transaction() as session:
        session.get_one(Job, job.id).error = text
        for shard in jobs.shards_of(session, job.id):
            shard.worker = shard.error = text
        session.get_one(Push, made[1]).error = text
        now = datetime.now(UTC)
        verdict = reviews.Verdict(1, 1, "fix", (text,), text, 5, text, 1.0, now, now)
        reviews.apply(session, made[0], verdict)
        explained = {
            "token": text, "token_id": 1, "expert": -0.1, "base": -1.0, "negative": -2.0,
            "center": None, "score": -0.2, "unguided": HOSTILE[0], "survivors": 3,
            "likeliest": {
                "guided": [{"token": text, "log_probability": -0.1}],
                "unguided": [{"token": each, "log_probability": -1.0} for each in HOSTILE],
                "drawn": {"guided": -0.1, "unguided": -3.0},
            },
        }  # fmt: skip
        explanation = requests.create(session, "explanation", {"sample": str(made[0])})
        requests.answer(session, explanation, {"tokens": [explained]})
        replay = requests.create(session, "replay", {"sample": str(made[0])})
        different = {"position": 1, "expected": text, "made": text}
        requests.answer(
            session,
            replay,
            {"identical": False, "text": text, "expected": text, "first_difference": different},
        )
    return {
        "overview": "/",
        "dataset": "/datasets/hostile",
        "jobs": "/jobs?dataset=hostile",
        "job": f"/jobs/{job.id}",
        "live": f"/jobs/{job.id}/live",
        "clone": f"/jobs/new?like={job.id}",
        "playground": f"/playground?like={job.id}",
        "now": "/overview/now",
        "samples": "/samples?dataset=hostile",
        "search": "/samples?dataset=hostile&q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        "sample": f"/samples/{made[0]}",
        "explanation": f"/samples/{made[0]}?asked={explanation.id}",
        "replay": f"/samples/{made[0]}?asked={replay.id}",
        "waiting": f"/samples/{made[1]}",
        "review": "/review?dataset=hostile",
        "models": "/models",
        "settings": "/settings",
        "health": "/health",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("overview", "dataset", "jobs", "job", "live", "clone", "samples", "search", "sample"),
        *(
            "playground",
            "now",
            "explanation",
            "replay",
            "waiting",
            "review",
            "models",
            "settings",
            "health",
        ),
    ],
)
def test_hostile_text_is_shown_and_does_nothing(
    visitor: Visitor, hostile: dict[str, str], name: str
) -> None:
    answer = visitor.get(hostile[name])
    assert answer.status_code == 200
    page = assert_inert(answer.text)
    if name not in ("jobs", "clone", "playground", "now"):
        assert "<script>alert(1)</script>" in page.text + str(page.tags)


def test_near_copies_are_found_and_say_what_they_repeat(
    visitor: Visitor, db: Database, dataset: str, made: list[uuid.UUID]
) -> None:
    with db.transaction() as session:
        found = datasets.get(session, dataset)
        datasets.import_lines(session, found, [b'{"text": "a real one"}'])
        (real,) = samples.list_page(session, found.id, origin="real")
        near_copies.mark(session, found.id, [(made[1], real.id, f"near-copy of {HOSTILE[0]}")])
    only = visitor.get(f"/samples?dataset={dataset}&copies=only").text
    assert ("text 1" in only, "text 2" in only) == (True, False)
    assert HOSTILE[0] not in only
    without = visitor.get(f"/samples?dataset={dataset}&copies=none").text
    assert ("text 1" in without, "text 2" in without) == (False, True)
    assert Html(visitor.get(f"/samples/{made[1]}").text).links(f"/samples/{real.id}")


def test_the_policy_allows_no_inline_script_and_no_other_site(visitor: Visitor) -> None:
    policy = visitor.get("/").headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy


def test_an_unknown_page_says_so_in_words_and_the_api_in_json(visitor: Visitor) -> None:
    page = visitor.get("/nowhere")
    assert (page.status_code, page.mimetype) == (404, "text/html")
    assert "There is no such page" in page.text
    api = visitor.get("/api/v1/nowhere")
    assert (api.status_code, api.mimetype) == (404, "application/problem+json")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/jobs/{uuid.UUID(int=1)}", 404),
        (f"/samples/{uuid.UUID(int=1)}", 404),
        ("/datasets/none", 404),
        ("/jobs/new?like=none", 404),
        ("/samples?job=none", 404),
        ("/review?dataset=none", 404),
        ("/jobs?cursor=%21", 422),
        ("/samples?q=%00", 422),
    ],
)
def test_errors_are_pages_in_words(visitor: Visitor, dataset: str, path: str, status: int) -> None:
    answer = visitor.get(path)
    assert (answer.status_code, answer.mimetype) == (status, "text/html")
    assert Html(answer.text).links("/")


def test_a_database_that_is_away_is_said_in_words(settings: Settings) -> None:
    away = settings.model_copy(
        update={"database_url": "postgresql+psycopg://nobody@127.0.0.1:1/none"}
    )
    stranger = Visitor(create_app(away).test_client())
    answer = stranger.post("/login", {"token": TOKEN})
    assert (answer.status_code, answer.mimetype) == (503, "text/html")
    assert "The database does not answer" in answer.text


def test_a_broker_that_is_away_is_named_with_the_remedy(settings: Settings) -> None:
    away = settings.model_copy(update={"broker_url": "redis://127.0.0.1:1/0"})
    visitor = Visitor(create_app(away).test_client()).log_in()
    assert "help" in Html(visitor.get("/health/chip").text).text
    notes = Html(visitor.get("/health/notes").text).text
    assert "Broker It does not answer" in notes
    assert "FACTORY_BROKER_URL" in notes


def test_a_label_studio_that_fails_is_named_with_since_when_and_the_remedy(
    settings: Settings, db: Database
) -> None:
    reviewed = settings.model_copy(update={"label_studio_url": "http://127.0.0.1:1"})
    visitor = Visitor(create_app(reviewed).test_client()).log_in()
    with db.transaction() as session:
        circuits.failed(session, circuits.LABEL_STUDIO, circuits.Turn(), "503: <b>busy", first=5)
    chip, notes = (visitor.get(f"/health/{part}").text for part in ("chip", "notes"))
    with db.transaction() as session:
        circuits.succeeded(session, circuits.LABEL_STUDIO, circuits.Turn())
    assert "1 part needs help" in Html(chip).text
    assert re.search(
        r"Label Studio Since .* UTC: 503: <b>busy\. Samples are made", Html(notes).text
    )
    assert "follows by itself" in notes


def test_without_a_label_studio_what_waits_is_no_trouble_but_said(settings: Settings) -> None:
    unset = settings.model_copy(update={"label_studio_url": ""})
    visitor = Visitor(create_app(unset).test_client()).log_in()
    assert "Label Studio" not in visitor.get("/health/notes").text
    shown = Html(visitor.get("/health").text).text
    assert re.search(r"None is set up: FACTORY_LABEL_STUDIO_URL\. [\d,]+ samples? waits? ", shown)


def test_work_that_nobody_takes_is_named_with_the_remedy(
    visitor: Visitor, db: Database, job: uuid.UUID
) -> None:
    with db.transaction() as session:
        outbox.take_due(session, limit=1000, retry_seconds=60)
        long_ago = datetime.now(UTC) - timedelta(minutes=10)
        session.execute(update(Outbox).values(created_at=long_ago))
    notes = visitor.get("/health/notes").text
    assert "factory worker gpu" in notes
    assert notes in visitor.get("/").text, "there when the page comes, so that nothing moves"
    with db.transaction() as session:
        [shard, *_] = jobs.shards_of(session, job)
        shards.claim(session, shard.id, "w1", 60)
    assert "factory worker gpu" not in visitor.get("/health/notes").text


def test_old_pages_of_a_list_are_reached_by_a_link(
    visitor: Visitor, db: Database, dataset: str
) -> None:
    with db.transaction() as session:
        lines = [json.dumps({"text": f"number {n}"}).encode() for n in range(70)]
        datasets.import_lines(session, datasets.get(session, dataset), lines)
    path, seen = f"/samples?dataset={dataset}&origin=real", 0
    while path:
        page = Html(visitor.get(path).text)
        seen += sum("data-open" in a for _, a in page.tags)
        path = next(iter(page.links("cursor=")), "")
    assert seen == 70


def test_samples_are_found_by_their_words(
    visitor: Visitor, made: list[uuid.UUID], dataset: str
) -> None:
    found = Html(visitor.get(f"/samples?dataset={dataset}&q=text+2").text)
    assert found.links("/samples/0") == [f"/samples/{made[2]}"]


def test_a_sample_names_what_made_it(visitor: Visitor, db: Database, made: list[uuid.UUID]) -> None:
    with db.transaction() as session:
        told = samples.provenance(session, made[1])
    text = Html(visitor.get(f"/samples/{made[1]}").text).text
    assert "text 1" in text
    assert str(told["seed"]) in text
    assert told["model"]["name"] in text
    assert told["worker"] in text


def test_ticked_samples_are_sent_retired_and_saved(
    visitor: Visitor, db: Database, dataset: str, made: list[uuid.UUID]
) -> None:
    with db.transaction() as session:
        session.execute(delete(Push).where(Push.sample_id.in_(made)))
    form = {"sample": [str(made[0]), str(made[2]), "no id"], "back": f"dataset={dataset}"}
    sent = visitor.post("/samples/selected", form | {"action": "push"})
    assert (sent.status_code, sent.location) == (303, f"/samples?dataset={dataset}")
    assert "2 go to Label Studio." in visitor.get(sent.location).text
    with db.transaction() as session:
        assert set(pushes.of_samples(session, made)) == {made[0], made[2]}
    visitor.post("/samples/selected", form | {"action": "retire"})
    with db.transaction() as session:
        assert set(negatives.marks(session, made)) == {made[0], made[2]}
    saved = visitor.post("/samples/selected", form | {"action": "save"})
    texts = {json.loads(line)["text"] for line in saved.text.splitlines()}
    assert texts == {"text 0", "text 2"}
    none = visitor.post("/samples/selected", {"action": "push", "back": "dataset=none"})
    assert none.location == "/samples?dataset=none"


def test_samples_are_found_by_the_reason_they_were_refused_for(
    visitor: Visitor, db: Database, made: list[uuid.UUID], dataset: str
) -> None:
    now = datetime.now(UTC)
    with db.transaction() as session:
        given = ("reject", ("unsafe",), None, None, "ada", 1.0, now, now)
        reviews.apply(session, made[1], reviews.Verdict(77_001, 1, *given))
    found = Html(visitor.get(f"/samples?dataset={dataset}&reason=unsafe").text)
    assert found.links("/samples/0") == [f"/samples/{made[1]}"]
    with db.transaction() as session:
        reviews.withdraw(session, 77_001)
    assert "Nothing matches" in visitor.get(f"/samples?dataset={dataset}&reason=unsafe").text
