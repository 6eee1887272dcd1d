"""Which samples are alike: for every text, the nearest others."""

import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Neighbours = Callable[[Sequence[str], int], list[list[int]]]
"""(texts, count) → for each text the positions of `count` others (or all), nearest first."""

_COLUMNS = 2048  # words share columns by hash, so that a large vocabulary stays bounded
_BLOCK = 256  # rows compared with all others at a time


def by_words(texts: Sequence[str], count: int) -> list[list[int]]:
    """The nearest by cosine of word counts, rare words weighing more (tf-idf)."""
    counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    spread = Counter(word for words in counts for word in words)
    vectors = np.zeros((len(texts), _COLUMNS), dtype=np.float32)
    for row, words in enumerate(counts):
        for word, times in words.items():
            column = zlib.crc32(word.encode()) % _COLUMNS
            vectors[row, column] += times * math.log((1 + len(texts)) / spread[word])
    return by_vectors(vectors, count)


def by_vectors(vectors: NDArray[np.floating], count: int) -> list[list[int]]:
    """The nearest by cosine of vectors (N, D), such as embeddings."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms == 0, 1, norms)
    count = min(count, len(vectors) - 1)
    return [
        row
        for start in range(0, len(unit), _BLOCK)
        for row in _nearest(unit[start : start + _BLOCK] @ unit.T, start, count)
    ]


def _nearest(likeness: NDArray[np.floating], start: int, count: int) -> list[list[int]]:
    """Columns of the `count` highest values of each row, the row itself (start + i) left out."""
    rows = np.arange(len(likeness))
    likeness[rows, start + rows] = -np.inf
    if count < 1:
        return [[] for _ in rows]
    best = np.sort(np.argpartition(-likeness, count - 1, axis=1)[:, :count], axis=1)
    order = np.argsort(-np.take_along_axis(likeness, best, axis=1), axis=1, kind="stable")
    return [[int(i) for i in row] for row in np.take_along_axis(best, order, axis=1)]
