"""A tiny random model pair, and a factory on a real database that works with it."""

import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from factory import datasets, jobs, models, requests, samples
from factory.db import Database
from factory.ids import new_id
from factory.settings import Settings
from factory.spec import job_spec
from factory.tables import Dataset, Job, ModelPair, Request, Sample, Shard
from workers.training.tokenizer import word_tokenizer

WORDS = [f"{a}{b}" for a in ("ba", "du", "ki", "lo", "me", "ro") for b in "aeiouslmn"]
PROMPT = "ba du :"
CONTEXT = 128


def save_pair(folder: Path) -> None:
    """A base and another full model as its expert, both random, with a word tokenizer."""
    tokenizer = word_tokenizer(["ba", "du", ":", ".", *WORDS], CONTEXT)
    for seed, name in enumerate(("base", "expert")):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=CONTEXT,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(0, 0.4)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


@dataclass
class Floor:
    """A database with one dataset and one pair, and the settings of its workers."""

    settings: Settings
    database: Database
    dataset: Dataset
    model: ModelPair

    def submit(self, count: int, size: int = 8, **spec: Any) -> Job:
        sampling = {"max_new_tokens": 12, **spec.pop("sampling", {})}
        body = {
            "kind": "generate",
            "dataset": self.dataset.name,
            "model": self.model.name,
            "count": count,
            "shard_size": size,
            "sampling": sampling,
            "seed": 7,
            **spec,
        }
        with self.database.transaction() as session:
            valid = job_spec.validate_python(body)
            return jobs.submit(session, valid, self.dataset, self.model, request=body)[0]

    def shards(self, job: Job) -> Sequence[Shard]:
        with self.database.transaction() as session:
            return jobs.shards_of(session, job.id)

    def job(self, job: Job) -> Job:
        with self.database.transaction() as session:
            return jobs.get(session, job.id)

    def samples(self, job: Job) -> list[Sample]:
        """A job's samples by ordinal."""
        with self.database.transaction() as session:
            page = samples.list_page(session, self.dataset.id, job_id=job.id, limit=10_000)
            return sorted(page, key=lambda sample: sample.ordinal or 0)

    def ask(self, kind: str, **payload: Any) -> Request:
        with self.database.transaction() as session:
            return requests.create(session, kind, payload)

    def answer(self, request: Request) -> Request:
        with self.database.transaction() as session:
            return requests.get(session, request.id)

    def negative_ids(self, sample: Sample, role: str = "negative") -> list[uuid.UUID]:
        with self.database.transaction() as session:
            links = samples.negatives_of(session, sample.id)
            return [link.negative_id for link, _ in links if link.role == role]


def open_floor(settings: Settings, database: Database, pair: Path) -> Floor:
    """A fresh dataset, and the pair under a name and in folders of its own."""
    name = new_id().hex
    folder = settings.models_dir / name
    shutil.copytree(pair, folder)
    with database.transaction() as session:
        dataset = datasets.create(session, f"d{name}", PROMPT)
        model = models.add(
            session,
            settings,
            name=f"m{name}",
            base=str(folder / "base"),
            expert=str(folder / "expert"),
        )
    return Floor(settings, database, dataset, model)
