"""Which samples are alike: for every text, the others from nearest to farthest."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Neighbours = Callable[[Sequence[str]], list[list[int]]]


def by_words(texts: Sequence[str]) -> list[list[int]]:
    """Nearest first by cosine of word counts, rare words weighing more (tf-idf)."""
    counts = [Counter(re.findall(r"\w+", text.lower())) for text in texts]
    spread = Counter(word for count in counts for word in count)
    column = {word: i for i, word in enumerate(sorted(spread))}
    vectors = np.zeros((len(texts), max(1, len(column))))
    for row, count in enumerate(counts):
        for word, times in count.items():
            vectors[row, column[word]] = times * math.log((1 + len(texts)) / spread[word])
    return by_vectors(vectors)


def by_vectors(vectors: NDArray[np.floating]) -> list[list[int]]:
    """Nearest first by cosine of embeddings (N, D); ties by position."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(norms == 0, 1, norms)
    order = np.argsort(-(unit @ unit.T), axis=1, kind="stable")
    return [[int(j) for j in row if j != i] for i, row in enumerate(order)]
