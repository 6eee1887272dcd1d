"""Models on the dashboard: how each was trained, and which settings suit it."""

from typing import Any

from factory import datasets, jobs, models, shards
from factory.db import Database
from factory.spec import TrainSpec

from .conftest import Html, Visitor
from .test_experiments import asked, measured


def train(db: Database, dataset: str, model: str, losses: list[Any], *, made: bool) -> None:
    """A job that trains a pair, with the losses it has noted so far."""
    body = {"kind": "train", "dataset": dataset, "model": model, "base": "demo", "steps": 30}
    with db.transaction() as session:
        spec = TrainSpec.model_validate(body)
        job, _ = jobs.submit(session, spec, datasets.get(session, dataset), None, request=body)
        (shard,) = jobs.shards_of(session, job.id)
        lease = shards.claim(session, shard.id, "gpu@a", 60)
        assert lease is not None
        shard.progress = {"losses": losses}
        if made:
            job.model_id = models.get(session, model).id
            shards.finish(session, lease)
            jobs.finish_if_done(session, job.id)


def curves(source: str) -> list[str]:
    return [str(a["aria-label"]) for tag, a in Html(source).tags if a.get("class") == "curve "]


def test_a_training_run_shows_its_loss_while_it_runs_and_after(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    train(db, dataset, model, [[1, 3.5], [20, 2.25], [30, 1.5]], made=True)
    train(db, dataset, f"{model}-next", [[1, 3.25], [10, 2.5]], made=False)
    source = visitor.get("/models").text
    assert "Loss from 3.5 at step 1 to 1.5 at step 30" in curves(source)
    assert "Loss from 3.25 at step 1 to 2.5 at step 10" in curves(source)
    assert f"lora · 30 steps · seed 0 on {dataset}" in Html(source).text


def test_a_pair_names_the_settings_that_were_found_for_it(
    visitor: Visitor, db: Database, dataset: str, model: str
) -> None:
    """And its newest jobs, without those that a sweep made to find them."""
    assert "Calibratednot yet" in Html(visitor.get("/models").text).text
    sweep = asked(visitor, dataset, model)
    measured(db, sweep)
    html = Html(visitor.get("/models").text)
    assert f"γ .5 · η 1 for {dataset}; the expert is memorising" in html.text
    links = [a.get("href") for tag, a in html.tags if tag == "a"]
    assert f"/experiments/{sweep}" in links
    with db.transaction() as session:
        children = [child.id for child in jobs.children(session, sweep)]
    assert not {f"/jobs/{child}" for child in children} & set(links)
