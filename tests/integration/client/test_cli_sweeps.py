"""Sweeps and defaults on the command line, against the real application."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from factory import experiments, jobs
from factory.cli.app import run
from factory.db import Database
from workers.evaluate import Evaluator

from . import conftest

pytestmark = pytest.mark.usefixtures("command_line")
Captured = pytest.CaptureFixture[str]
SWEEP = """
kind: sweep
method: grid
space: {guidance.gamma: [-0.5, 0.5], guidance.eta: [0.25]}
count: 4
seed: 7
"""


def document(captured: Captured, *words: str) -> Any:
    captured.readouterr()
    assert run([*words, "--json"]) == 0
    return json.loads(captured.readouterr().out)


def work_off(
    database: Database, worker: conftest.Worker, evaluator: Evaluator, job_id: str
) -> None:
    """Make every setting's samples by hand, and have them measured by a real worker."""
    while True:
        with database.transaction() as session:
            live = [
                child
                for child in jobs.children(session, uuid.UUID(job_id))
                if child.state in jobs.LIVE
            ]
            sweep = jobs.get(session, uuid.UUID(job_id))
            waiting = [s.id for s in jobs.shards_of(session, sweep.id) if s.state == "pending"]
        for child in live:
            if child.kind == "generate":
                texts = [f"a{n} b{child.position} c d" for n in range(child.count)]
                worker.make(str(child.id), texts)
            else:
                with database.transaction() as session:
                    jobs.fail(session, child.id, "No model here.")
        if not live and not waiting:
            return
        if not live:
            evaluator.run_shard(waiting[0])


def test_a_sweep_from_a_file_to_the_next_jobs_settings(
    name: str,
    model: str,
    database: Database,
    worker: conftest.Worker,
    evaluator: Evaluator,
    capsys: Captured,
) -> None:
    Path("sweep.yaml").write_text(SWEEP)
    options = ("--dataset", name, "--model", model)
    job = document(capsys, "job", "submit", "sweep.yaml", *options)["id"]
    work_off(database, worker, evaluator, job)
    assert run(["job", "watch", job]) == 0
    shown = capsys.readouterr().out
    assert "gamma -0.5, eta 0.25" in shown
    assert "Recommended: no." in shown
    assert "12 of 12 samples" in shown

    set_ = document(capsys, "dataset", "defaults", name, "--from", job, "--position", "1")
    assert (set_["guidance"]["gamma"], set_["guidance"]["eta"]) == (-0.5, 0.25)
    assert document(capsys, "dataset", "show", name)["defaults"] == set_
    plain = document(capsys, "job", "submit", *options, "--count", "1", "--eta", "1")
    assert (plain["spec"]["guidance"]["gamma"], plain["spec"]["guidance"]["eta"]) == (-0.5, 1)
    own = document(capsys, "job", "submit", *options, "--count", "1", "--preset", "default")
    assert own["spec"]["guidance"]["gamma"] == 0

    changed = document(capsys, "dataset", "defaults", name, "--set", "sampling.temperature=1.3")
    assert changed["sampling"]["temperature"] == 1.3
    assert changed["guidance"] == set_["guidance"]
    assert document(capsys, "dataset", "defaults", name, "--clear") == {}
    assert run(["dataset", "defaults", name]) == 0
    assert "the factory's own" in capsys.readouterr().out


def test_a_calibration_sets_defaults_by_itself_when_asked(
    name: str,
    model: str,
    database: Database,
    worker: conftest.Worker,
    evaluator: Evaluator,
    capsys: Captured,
) -> None:
    words = ("--points", "3", "--count", "4", "--objective", "yield", "--use")
    job = document(capsys, "model", "calibrate", model, "--dataset", name, *words)
    assert (job["kind"], job["spec"]["method"], job["spec"]["use"]) == ("sweep", "halving", True)
    work_off(database, worker, evaluator, job["id"])
    ended = document(capsys, "job", "show", job["id"])
    assert ended["state"] == "succeeded"
    assert document(capsys, "dataset", "defaults", name)["job"] == job["id"]
    with database.transaction() as session:
        best = ended["result"]["recommendation"]["position"]
        wanted = experiments.tried(session, uuid.UUID(job["id"]))[best][0].spec["guidance"]
    assert document(capsys, "dataset", "defaults", name)["guidance"] == wanted


def test_settings_that_cannot_be_used_are_4(name: str, model: str, capsys: Captured) -> None:
    job = document(capsys, "model", "calibrate", model, "--dataset", name, "--points", "2")["id"]
    assert run(["dataset", "defaults", name, "--from", job]) == 4
    assert "no recommendation yet" in capsys.readouterr().err
    assert run(["dataset", "defaults", name, "--set", "guidance.eta=99"]) == 4
    assert "guidance.eta" in capsys.readouterr().err
    assert run(["model", "calibrate", model, "--dataset", name, "--points", "1"]) == 4
