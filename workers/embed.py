"""Embeds what is new in a dataset, and marks what turns out to be a near-copy of a real sample."""

import uuid
from collections.abc import Sequence
from functools import partial

from sqlalchemy.orm import Session

from factory import near_copies, samples
from factory.db import Database
from workers.embedding import Embedder
from workers.metrics.copies import near_copy

CHUNK = 512  # texts in one transaction


def embed_dataset(database: Database, embedder: Embedder, dataset_id: uuid.UUID) -> int:
    """Embed every sample of the dataset that has no embedding yet; returns how many."""
    total = 0
    while True:
        rows = database.retrying(lambda s: samples.unembedded(s, dataset_id, CHUNK))
        if not rows:
            return total
        vectors = embedder.embed_texts([text for _, text in rows])
        embedded = list(zip((id_ for id_, _ in rows), vectors, strict=True))
        database.retrying(partial(_store, dataset_id=dataset_id, vectors=embedded))
        total += len(rows)


def _store(
    session: Session,
    *,
    dataset_id: uuid.UUID,
    vectors: Sequence[tuple[uuid.UUID, Sequence[float]]],
) -> None:
    """Store embeddings, and mark those generated samples that turn out to be near-copies."""
    samples.set_embeddings(session, vectors)
    found: dict[uuid.UUID, tuple[uuid.UUID, str]] = {}
    for each in near_copies.candidates(session, dataset_id, [id_ for id_, _ in vectors]):
        why = near_copy(each.text, each.real_text, each.cosine)
        if why and each.sample_id not in found:
            found[each.sample_id] = each.real_id, why
    near_copies.mark(session, dataset_id, [(id_, *copied) for id_, copied in found.items()])
