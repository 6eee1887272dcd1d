"""The loop, once around on a whole factory, and what its users rely on afterwards."""

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from factory.client import Client

from .conftest import Demo
from .running import RunningFactory

DATASET = "hypotheses"


@pytest.fixture(scope="module")
def client(running_factory: RunningFactory, demo: Demo) -> Iterator[Client]:
    with running_factory.client() as client:
        yield client


@pytest.fixture(scope="module")
def steered(client: Client) -> dict[str, Any]:
    """A sample of the demo's second round that was made with feedback."""
    second = next(job for job in client.jobs(dataset=DATASET) if job["spec"]["guidance"]["eta"] > 0)
    return next(s for s in client.samples(DATASET, job=second["id"]) if not s["audit"])


def test_every_sample_of_the_demo_is_stored_pushed_and_reviewed(demo: Demo) -> None:
    assert [each["name"] for each in demo.result["rounds"]] == ["round-1", "control", "round-2"]
    for each in demo.result["rounds"]:
        counts = {each[name] for name in ("planned", "stored", "pushed", "reviewed")}
        assert len(counts) == 1, each


def test_feedback_halves_the_rejected_theme_and_keeps_the_text_coherent(demo: Demo) -> None:
    control, second = demo.round("control"), demo.round("round-2")
    assert second["feedback"]
    assert not control["feedback"]
    assert second["theme_share"] < control["theme_share"] / 2
    assert second["coherence"] > control["coherence"] - 0.10
    low, high = second["theme_share_ci"]
    assert low <= second["theme_share"] <= high < control["theme_share_ci"][0]


def test_the_report_is_a_page_that_needs_no_network(
    running_factory: RunningFactory, demo: Demo
) -> None:
    page = (running_factory.home / "demo" / "report.html").read_text()
    assert "<svg" in page
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page)


def test_a_sample_names_everything_that_made_it(
    running_factory: RunningFactory, steered: dict[str, Any]
) -> None:
    shown = running_factory.command("sample", "show", steered["id"], "--json")
    made = json.loads(shown.stdout)["provenance"]
    assert made["sample"] == steered["id"]
    assert {"job", "shard", "ordinal", "seed", "prompt", "audit", "layout", "kv"} <= made.keys()
    assert made["guidance"]["rule"] == "steer"
    assert made["guidance"]["eta"] == 0.5
    assert made["guidance"]["nucleus"] == 0.95
    assert [each["position"] for each in made["negatives"]] == [0, 1, 2]
    assert {each["origin"] for each in made["negatives"]} == {"synthetic"}
    for part in ("base", "expert", "tokenizer"):
        assert re.fullmatch(r"[0-9a-f]{64}", made["model"][part]["sha256"])
    assert {"factory", "torch", "transformers"} <= made["software"].keys()
    assert made["device"].startswith("cpu")


def test_the_negatives_of_a_steered_sample_were_rejected_before(
    client: Client, steered: dict[str, Any]
) -> None:
    for negative in client.provenance(steered["id"])["negatives"]:
        before = client.sample(negative["id"])
        assert before["state"] == "rejected"
        assert before["created_at"] < steered["created_at"]


def test_replay_makes_the_same_tokens(
    running_factory: RunningFactory, steered: dict[str, Any]
) -> None:
    done = running_factory.command("sample", "replay", steered["id"], "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["identical"] is True


def test_a_killed_worker_loses_nothing_and_doubles_nothing(
    running_factory: RunningFactory, client: Client
) -> None:
    job = client.submit(
        {"kind": "generate", "dataset": DATASET, "model": "demo", "count": 300, "seed": 5}
        | {"shard_size": 300, "review": {"push": False}}
    )
    _until(lambda: 0 < client.job(job["id"])["progress"]["done"] < 300)
    before = running_factory.pids()["gpu-worker"]
    _kill_tree(before)
    _until(lambda: client.job(job["id"])["state"] == "succeeded")
    assert running_factory.pids()["gpu-worker"] != before
    ordinals = [sample["ordinal"] for sample in client.samples(DATASET, job=job["id"])]
    assert sorted(ordinals) == list(range(300))
    assert client.shards(job["id"])[0]["fence"] > 1


def _kill_tree(pid: int) -> None:
    parent = psutil.Process(pid)
    for process in (parent, *parent.children(recursive=True)):
        os.kill(process.pid, signal.SIGKILL)


def _until(holds: Any, patience: float = 180) -> None:
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.2)
