"""Forms: what they make, and what they say when something is wrong."""

import io
import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from apiflask import APIFlask
from sqlalchemy import select

from factory import datasets, jobs, levers, outbox, requests, tokens
from factory.db import Database
from factory.feedback import Feedback, Window
from factory.local import home
from factory.settings import Settings
from factory.tables import Job, Outbox, Request, Sample
from factory.web import create_app
from factory.web.pages import label_studio
from factory.web.state import KEY, State

from .conftest import Html, Visitor, state_of, work_off


def filled(visitor: Visitor, path: str = "/jobs/new", **changed: str) -> dict[str, str]:
    """The new job form as the page gives it, some fields changed."""
    page = Html(visitor.get(path).text)
    fields = {
        str(a["name"]): a.get("value") or ""
        for tag, a in page.tags
        if tag == "input" and "name" in a and (a.get("type") != "checkbox" or "checked" in a)
    }
    selects = {"guidance.rule": "steer", "negatives.strategy": "random", "sampling.stop": "\\n"}
    return fields | selects | changed


def jobs_of(db: Database, dataset: str) -> list[Job]:
    with db.transaction() as session:
        found = datasets.get(session, dataset)
        return list(jobs.list_page(session, dataset_id=found.id))


def test_a_job_is_submitted_as_it_stands_in_the_form(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    form = filled(
        visitor, dataset=dataset, model=model, count="12",
        **{"guidance.gamma": "-0.3", "negatives.sources.real": "4", "sampling.stop": "\\n\nEND"},
    )  # fmt: skip
    del form["negatives.center"]
    answer = visitor.post("/jobs/new", form)
    [job] = jobs_of(db, dataset)
    assert (answer.status_code, answer.location) == (303, f"/jobs/{job.id}")
    assert job.count == 12
    assert job.spec["prompt"] == "Write a hypothesis:"
    assert job.spec["guidance"]["gamma"] == -0.3
    assert job.spec["negatives"]["sources"] == {"rejected": 2.0, "synthetic": 1.0, "real": 4.0}
    assert job.spec["negatives"]["center"] is False
    assert job.spec["sampling"]["stop"] == ["\n", "END"]
    assert job.spec["trace"] is True


def test_what_verdicts_do_is_chosen_on_the_page(
    visitor: Visitor, db: Database, dataset: str
) -> None:
    window = Window(rounds=3)
    with db.transaction() as session:
        datasets.set_feedback(datasets.get(session, dataset), Feedback(window=window))
    for choice, shown in (
        ("recommended", "Verdict head"),
        ("none", "Nothing: what people reject is made as often as before."),
        ("negatives", "negatives alone"),
    ):
        answer = visitor.post(f"/datasets/{dataset}/feedback", {"levers": choice})
        assert (answer.status_code, answer.location) == (303, f"/datasets/{dataset}")
        page = Html(visitor.get(f"/datasets/{dataset}").text)
        assert shown in page.text
        offered = [a["value"] for tag, a in page.tags if tag == "button" and "levers" in a.values()]
        assert sorted([*offered, choice]) == ["negatives", "none", "recommended"]
    with db.transaction() as session:
        kept = Feedback.model_validate(datasets.get(session, dataset).feedback)
    assert kept == Feedback(window=window)
    assert visitor.post(f"/datasets/{dataset}/feedback", {"levers": "x"}).status_code == 422


def test_a_lever_that_does_not_act_says_why_on_the_page(
    visitor: Visitor, db: Database, dataset: str
) -> None:
    setting = Feedback.model_validate({"levers": {"adapters": {}}})
    with db.transaction() as session:
        of = datasets.get(session, dataset)
        datasets.set_feedback(of, setting)
        fit = levers.Fit("adapters", {}, None, 40, 12, None, {"auroc": 0.51}, "it knows nothing")
        levers.note(session, of.id, f"{of.id}", fit)
    shown = Html(visitor.get(f"/datasets/{dataset}").text).text
    assert "Adapters" in shown
    assert "Fitted on 40 verdicts, 12 of them rejections; AUROC 0.51 on held-out texts" in shown
    assert "it knows nothing" in shown


def test_pressing_twice_makes_one_job(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    form = filled(visitor, dataset=dataset, model=model)
    first, second = visitor.post("/jobs/new", form), visitor.post("/jobs/new", form)
    assert first.location == second.location
    assert len(jobs_of(db, dataset)) == 1


def test_a_form_that_was_changed_after_it_was_sent_asks_before_a_second_job(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    form = filled(visitor, dataset=dataset, model=model)
    visitor.post("/jobs/new", form)
    again = visitor.post("/jobs/new", form | {"count": "7"})
    assert again.status_code == 422
    assert "Submit again to make another" in Html(again.text).text
    assert len(jobs_of(db, dataset)) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", "0"),
        ("count", "many"),
        ("guidance.gamma", "99"),
        ("guidance.nucleus", "0"),
        ("negatives.count", "-1"),
        ("negatives.sources.real", "-1"),
        ("sampling.temperature", "warm"),
        ("sampling.stop", '"'),
        ("seed", "-1"),
        ("audit", "2"),
        ("model", "none"),
        ("dataset", "none"),
    ],
)
def test_what_is_wrong_stands_next_to_its_field(
    visitor: Visitor, db: Database, dataset: str, model: str, field: str, value: str
) -> None:
    form = filled(visitor, dataset=dataset, model=model) | {field: value}
    answer = visitor.post("/jobs/new", form)
    assert answer.status_code == 422
    page = Html(answer.text)
    assert page.by_id(f"{field}-error")
    assert page.by_id(field)["aria-invalid"] == "true"
    assert f"{field}-error" in str(page.by_id(field)["aria-describedby"])
    assert jobs_of(db, dataset) == []


def test_a_job_can_be_cloned(
    visitor: Visitor, db: Database, job: uuid.UUID, dataset: str, model: str
) -> None:
    form = filled(visitor, f"/jobs/new?like={job}", dataset=dataset, model=model)
    assert form["seed"] == "1"
    visitor.post("/jobs/new", form)
    newer, older = jobs_of(db, dataset)
    assert newer.spec == older.spec


def test_the_form_is_shown_as_yaml_and_curl(visitor: Visitor, dataset: str, model: str) -> None:
    form = filled(visitor, dataset=dataset, model=model, count="33")
    text = Html(visitor.post("/jobs/new/same", form).text).text
    assert "count: 33" in text
    assert "/api/v1/jobs" in text
    wrong = visitor.post("/jobs/new/same", form | {"count": "0"})
    assert "count" in Html(wrong.text).text
    assert "/api/v1/jobs" not in wrong.text


def test_a_job_is_paused_resumed_and_cancelled(
    visitor: Visitor, db: Database, job: uuid.UUID
) -> None:
    for action, state in (("pause", "paused"), ("resume", "pending"), ("cancel", "cancelled")):
        answer = visitor.post(f"/jobs/{job}/{action}")
        assert answer.location == f"/jobs/{job}"
        assert state_of(db, job) == state
    again = visitor.post(f"/jobs/{job}/cancel")
    assert again.status_code == 409
    assert "has ended (cancelled)" in Html(again.text).text


def test_the_live_part_follows_the_job_and_stops_at_its_end(
    visitor: Visitor, db: Database, job: uuid.UUID
) -> None:
    page = Html(visitor.get(f"/jobs/{job}").text)
    poll = str(page.by_id("live")["hx-get"])
    assert visitor.get(poll).status_code == 204
    work_off(db, job, ["one", "two", "three", "four"])
    after = visitor.get(poll)
    live = Html(after.text)
    assert after.status_code == 200
    assert "hx-trigger" not in live.by_id("live")
    assert {"one", "two", "three", "four"} <= set(live.text.split())
    assert live.by_id("job-actions")
    assert "Pause" not in live.text


def test_a_dataset_is_made(visitor: Visitor, db: Database) -> None:
    name = f"made-{uuid.uuid4().hex[:8]}"
    form = {"name": f" {name} ", "prompt": "Say:\r\n", "description": "d", "labels": "a\r\n\r\nb"}
    assert visitor.post("/datasets/new", form).location == f"/datasets/{name}"
    with db.transaction() as session:
        found = datasets.get(session, name)
    assert (found.prompt, found.labels) == ("Say:\n", ["a", "b"])
    again = visitor.post("/datasets/new", form)
    assert again.status_code == 422
    assert "already" in Html(again.text).text
    assert Html(again.text).by_id("name-error")


@pytest.mark.parametrize(("field", "value"), [("name", "No Spaces"), ("name", ""), ("prompt", "")])
def test_a_dataset_that_cannot_be_made_says_why(visitor: Visitor, field: str, value: str) -> None:
    form = {"name": "fine", "prompt": "fine", "description": "", "labels": "", field: value}
    answer = visitor.post("/datasets/new", form)
    assert answer.status_code == 422
    assert Html(answer.text).by_id(f"{field}-error")


def test_real_samples_are_imported_from_a_file(
    visitor: Visitor, db: Database, dataset: str
) -> None:
    file = (io.BytesIO(b'{"text": "one"}\n{"text": "one"}\nnonsense\n'), "samples.jsonl")
    answer = visitor.post(f"/datasets/{dataset}/import", {"file": file})
    text = Html(answer.text).text
    assert "1 imported" in text
    assert "line 3: " in text
    with db.transaction() as session:
        counts = datasets.counts(session, datasets.get(session, dataset))
    assert counts["origin"] == {"real": 1}


def test_exports_come_with_the_sign_in(visitor: Visitor, db: Database, dataset: str) -> None:
    file = (io.BytesIO(b'{"text": "one"}\n'), "samples.jsonl")
    visitor.post(f"/datasets/{dataset}/import", {"file": file})
    [link, *_] = Html(visitor.get(f"/datasets/{dataset}").text).links("/export")
    assert json.loads(visitor.get(link).text)["text"] == "one"


@pytest.mark.parametrize("kind", ["replay", "explanation"])
def test_a_worker_is_asked_and_its_answer_is_shown(
    visitor: Visitor, db: Database, made: list[uuid.UUID], kind: str
) -> None:
    asked = visitor.post(f"/samples/{made[0]}/{kind}").location
    waiting = Html(visitor.get(asked).text)
    poll = str(waiting.by_id("answer")["hx-get"])
    with db.transaction() as session:
        [request_id] = [
            row.id for row in session.scalars(select(Request).where(Request.done_at.is_(None)))
        ]
        request = session.get_one(Request, request_id)
        assert (request.kind, request.payload) == (kind, {"sample": str(made[0])})
        assert outbox.version(session, outbox.SERVE, request.id) is not None
        requests.answer(session, request, ANSWERS[kind])
    answer = Html(visitor.get(poll).text)
    assert "hx-trigger" not in answer.by_id("answer")
    assert WORDS[kind] in answer.text
    assert visitor.get(poll.replace(str(made[0]), str(made[1]))).status_code == 404


ANSWERS = {
    "replay": {"identical": True, "text": "t", "expected": "t", "first_difference": None},
    "explanation": {
        "tokens": [
            {"token": "growth", "expert": -0.1, "base": -1.1, "negative": -3.0, "center": None,
             "score": 0.0, "unguided": "loss", "survivors": 4}
        ]
    },
}  # fmt: skip
WORDS = {"replay": "Identical", "explanation": "loss"}


def test_a_real_sample_cannot_be_replayed(visitor: Visitor, db: Database, dataset: str) -> None:
    with db.transaction() as session:
        datasets.import_lines(session, datasets.get(session, dataset), [b'{"text": "real"}'])
        real = session.scalars(select(Sample.id).where(Sample.text == "real")).one()
    page = visitor.get(f"/samples/{real}")
    assert page.status_code == 200
    assert "Replay" not in Html(page.text).text
    assert visitor.post(f"/samples/{real}/replay").status_code == 409


def test_a_sync_of_the_reviews_is_owed(visitor: Visitor, db: Database, dataset: str) -> None:
    assert visitor.post(f"/review/{dataset}/sync").status_code == 303
    with db.transaction() as session:
        owed = session.get(Outbox, (outbox.RECONCILE, datasets.get(session, dataset).id))
    assert owed is not None


def test_a_token_is_shown_once_and_can_be_revoked(
    visitor: Visitor, app: APIFlask, db: Database
) -> None:
    name = f"robot {uuid.uuid4()}"
    page = visitor.post("/settings/tokens", {"name": name}).text
    value = page.split('id="new-token"')[1].split(">", 1)[1].split("<", 1)[0]
    state: State = app.extensions[KEY]
    with state.db.transaction() as session:
        token = tokens.verify(session, value)
    later = visitor.get("/settings").text
    assert name in later
    assert value not in later
    assert visitor.post(f"/settings/tokens/{token.id}/revoke").location == "/settings"
    bearer = {"Authorization": f"Bearer {value}"}
    assert app.test_client().get("/api/v1/jobs", headers=bearer).status_code == 401


@pytest.mark.parametrize("name", ["", "x" * 101])
def test_a_token_needs_a_name(visitor: Visitor, name: str) -> None:
    answer = visitor.post("/settings/tokens", {"name": name})
    assert answer.status_code == 422
    assert Html(answer.text).by_id("name-error")


class LabelStudio(BaseHTTPRequestHandler):
    """As much of Label Studio as a test of the connection asks for."""

    def do_GET(self) -> None:
        known = self.path == "/health" or self.headers["Authorization"] == "Token good"
        self.send_response(200 if known else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("key", "said"),
    [("good", "answers and takes the API key"), ("bad", "refuses the API key"), ("é", "refuses")],
)
def test_the_connection_to_label_studio_is_tried(settings: Settings, key: str, said: str) -> None:
    with HTTPServer(("127.0.0.1", 0), LabelStudio) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        tested = label_studio.tested(
            settings.model_copy(update={"label_studio_url": url, "label_studio_api_key": key})
        )
        server.shutdown()
        thread.join()
    assert said in tested.said
    assert tested.good is (key == "good")


def test_a_label_studio_that_is_away_is_named_with_the_remedy(app: APIFlask) -> None:
    away = {"label_studio_url": f"http://127.0.0.1:{home.free_port()}"}
    state: State = app.extensions[KEY]
    changed = create_app(state.settings.model_copy(update=away))
    visitor = Visitor(changed.test_client()).log_in()
    answer = visitor.post("/settings/label-studio/test")
    assert (answer.status_code, answer.location) == (303, "/settings#ls")
    assert "does not answer (ConnectError). Does it run?" in visitor.get("/settings").text
