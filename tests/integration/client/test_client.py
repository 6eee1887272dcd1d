"""Every method of the client against the real application and database."""

import csv
import json
import threading
import uuid
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from factory import client as client_module
from factory import connection, samples
from factory.client import Client
from factory.db import Database
from factory.errors import Conflict, Invalid, ModelError, NotFound, Unauthorized
from factory.settings import Settings

from . import conftest

TEXTS = ["one text", "another text", "a third text"]


@pytest.fixture
def dataset(client: Client) -> str:
    """A fresh dataset's name."""
    return str(client.create_dataset(f"set-{uuid.uuid4().hex[:12]}", "Prompt:")["name"])


@pytest.fixture
def spec(dataset: str, model: str) -> dict[str, Any]:
    """A small job."""
    return {"kind": "generate", "dataset": dataset, "model": model, "count": 3}


@pytest.fixture
def made(client: Client, worker: conftest.Worker, spec: dict[str, Any]) -> list[dict[str, Any]]:
    """Samples of a finished job, newest first."""
    job = client.submit(spec)
    worker.make(job["id"], TEXTS)
    return list(client.samples(spec["dataset"], job=job["id"]))


def test_a_dataset_is_made_listed_and_shown(client: Client) -> None:
    made = client.create_dataset("notes", "Note:", "Short notes", ["good", "bad"])
    assert (made["prompt"], made["labels"]) == ("Note:", ["good", "bad"])
    assert made in list(client.datasets())
    assert client.dataset("notes") == made
    with pytest.raises(Conflict, match="notes"):
        client.create_dataset("notes", "Note:")
    with pytest.raises(NotFound, match="nothing"):
        client.dataset("nothing")
    with pytest.raises(Invalid) as caught:
        client.create_dataset("Not A Name", "")
    assert {error.field for error in caught.value.errors} == {"name", "prompt"}


def test_samples_are_imported_from_an_iterable(client: Client, dataset: str) -> None:
    given = ["plain", {"text": "with label", "label": "x", "meta": {"n": 1}}, "plain"]
    assert client.import_samples(dataset, given) == {
        "imported": 2,
        "duplicates": 1,
        "rejected": [],
    }
    (labelled,) = client.samples(dataset, query="label")
    assert (labelled["label"], labelled["meta"]) == ("x", {"n": 1})


def test_an_import_is_sent_in_parts_that_name_the_lines_of_the_whole(
    client: Client, dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "IMPORT_LINES", 2)
    lines = ['{"text": "a"}', '{"text": "b"}', "{broken", '{"text": "c"}', '{"txt": "d"}']
    file = tmp_path / "real.ndjson"
    file.write_text("\n".join(lines))
    sent: list[int] = []
    done = client.import_samples(dataset, file, sent.append)
    assert done["imported"] == 3
    assert [error["line"] for error in done["rejected"]] == [3, 5]
    assert sent == [2, 4, 5]
    assert client.import_samples(dataset, file)["duplicates"] == 3


def test_lists_go_on_over_pages(
    client: Client, dataset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PAGE", 4)
    client.import_samples(dataset, [f"text {number}" for number in range(10)])
    texts = [sample["text"] for sample in client.samples(dataset)]
    assert texts == [f"text {number}" for number in reversed(range(10))]
    assert len(list(client.samples(dataset, limit=6))) == 6
    assert list(client.samples(dataset, origin="synthetic")) == []
    assert len(list(client.samples(dataset, states=["accepted", "rejected"]))) == 10


def test_a_dataset_is_exported_in_every_format(
    client: Client, dataset: str, tmp_path: Path
) -> None:
    client.import_samples(dataset, TEXTS)
    for format_ in ("jsonl", "csv", "parquet", "card"):
        path = tmp_path / f"out.{format_}"
        size = client.export(dataset, path, format=format_)
        assert size == path.stat().st_size > 0
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in lines] == TEXTS
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["text"] for row in csv.DictReader(file)] == TEXTS
    assert pq.read_table(tmp_path / "out.parquet")["text"].to_pylist() == TEXTS
    assert dataset in (tmp_path / "out.card").read_text()


def test_a_refused_export_leaves_what_was_there(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("before")
    with pytest.raises(NotFound):
        client.export("nothing", path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_model_pairs_are_added_and_listed(
    client: Client, settings: Settings, tmp_path: Path
) -> None:
    folder = str(conftest.model_folder(settings))
    added = client.add_model("another", folder, folder)
    assert added in list(client.models())
    with pytest.raises(Conflict):
        client.add_model("another", folder, folder)
    with pytest.raises(Invalid) as caught:
        client.add_model("elsewhere", str(tmp_path), folder)
    assert [error.field for error in caught.value.errors] == ["base"]


def test_a_job_is_submitted_once_for_each_key(client: Client, spec: dict[str, Any]) -> None:
    first = client.submit(spec, idempotency_key="k1")
    assert client.submit(spec, idempotency_key="k1")["id"] == first["id"]
    assert client.submit(spec)["id"] != first["id"]
    with pytest.raises(Conflict, match="k1"):
        client.submit(spec | {"count": 5}, idempotency_key="k1")
    assert len(list(client.jobs(dataset=spec["dataset"]))) == 2


def test_a_job_that_cannot_be_is_refused_by_field(client: Client, spec: dict[str, Any]) -> None:
    for wrong, field in (({"count": 0}, "count"), ({"model": "none"}, "model")):
        with pytest.raises(Invalid) as caught:
            client.submit(spec | wrong)
        assert [error.field for error in caught.value.errors] == [field]


def test_a_job_is_paused_resumed_and_cancelled(client: Client, spec: dict[str, Any]) -> None:
    job_id = client.submit(spec)["id"]
    assert client.pause(job_id)["state"] == "paused"
    assert client.resume(job_id)["state"] == "pending"
    assert client.cancel(job_id)["state"] == "cancelled"
    assert client.job(job_id)["ended_at"] is not None
    assert [shard["state"] for shard in client.shards(job_id)] == ["pending"]
    with pytest.raises(Conflict):
        client.cancel(job_id)
    assert job_id in [job["id"] for job in client.jobs(state="cancelled")]


def test_a_job_is_watched_to_its_end(
    client: Client, worker: conftest.Worker, spec: dict[str, Any]
) -> None:
    job_id = client.submit(spec)["id"]
    updates = client.watch(job_id)
    assert next(updates)["state"] == "pending"
    thread = threading.Thread(target=worker.make, args=(job_id, TEXTS))
    thread.start()
    *_, last = updates
    thread.join()
    assert last["state"] == "succeeded"
    assert last["progress"]["done"] == 3


def test_a_sample_and_how_it_was_made(client: Client, made: list[dict[str, Any]]) -> None:
    newest = made[0]
    assert client.sample(newest["id"])["text"] == TEXTS[2]
    provenance = client.provenance(newest["id"])
    assert (provenance["job"], provenance["ordinal"]) == (newest["job"], 2)
    with pytest.raises(NotFound):
        client.sample(str(uuid.uuid4()))


def test_a_worker_is_waited_for(
    client: Client, worker: conftest.Worker, made: list[dict[str, Any]], spec: dict[str, Any]
) -> None:
    sample_id = made[0]["id"]
    replay = {"identical": True, "text": "t", "expected": "t", "first_difference": None}
    with worker.answering(replay):
        assert client.replay(sample_id) == replay
    preview = {"guided": [{"seed": 1, "text": "g"}], "unguided": [{"seed": 1, "text": "u"}]}
    with worker.answering(preview):
        assert client.preview(spec)["guided"][0]["text"] == "g"
    with worker.answering({"sample": sample_id, "tokens": []}):
        assert client.explain(sample_id)["tokens"] == []


def test_what_a_worker_refuses_is_raised(
    client: Client, worker: conftest.Worker, made: list[dict[str, Any]]
) -> None:
    with (
        worker.answering(ModelError("The files have changed.")),
        pytest.raises(Invalid, match="The files have changed"),
    ):
        client.replay(made[0]["id"])


def test_neighbours_come_nearest_first(
    client: Client, database: Database, made: list[dict[str, Any]]
) -> None:
    ids = [sample["id"] for sample in made]
    with pytest.raises(Conflict, match="no embedding"):
        client.neighbors(ids[0])
    angles = ((1.0, 0.0), (0.6, 0.8), (0.0, 1.0))
    with database.transaction() as session:
        vectors = [
            (uuid.UUID(id_), [x, y] + [0.0] * 382) for id_, (x, y) in zip(ids, angles, strict=True)
        ]
        samples.set_embeddings(session, vectors)
    near = client.neighbors(ids[0], k=2)
    assert [each["id"] for each in near] == ids[1:]
    assert near[0]["similarity"] == pytest.approx(0.6, abs=1e-3)


def test_samples_are_pushed_once_and_counted(
    client: Client, made: list[dict[str, Any]], spec: dict[str, Any]
) -> None:
    assert client.push(made[0]["job"]) == {"owed": 3}
    assert client.push(made[0]["job"]) == {"owed": 0}
    stats = client.review_stats(spec["dataset"])
    assert (stats["waiting"], stats["pushed"], stats["reviewed"]) == (3, 0, 0)
    assert client.metrics(spec["dataset"])["counts"]["origin"] == {"synthetic": 3}
    assert list(client.reviews(spec["dataset"])) == []
    assert list(client.negatives(spec["dataset"])) == []


def test_reviews_cannot_be_compared_without_label_studio(client: Client, dataset: str) -> None:
    with pytest.raises(Conflict, match="FACTORY_LABEL_STUDIO_URL"):
        client.sync_reviews(dataset)


def test_a_token_lets_in_until_it_is_revoked(client: Client, url: str) -> None:
    made = client.create_token("alice")
    with Client(url, made["token"]) as alice:
        assert next(alice.tokens())["name"] == "alice"
        assert alice.revoke_token(made["id"])["revoked_at"] is not None
        with pytest.raises(Unauthorized):
            list(alice.datasets())


def test_without_a_token_nothing_is_told(url: str) -> None:
    with Client(url, "") as nobody, pytest.raises(Unauthorized):
        list(nobody.datasets())
