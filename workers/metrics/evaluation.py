"""Every metric on one set of samples, and the same ones on real samples, to know what is natural.

What depends on the number of samples is measured on equal numbers. The real ones are split at
random: MAUVE, AUROC, precision, recall and coverage compare m samples with m of the first half,
and the reference compares m of the second half with those same m. Copies are looked for in all
real samples; the reference looks for copies of each real one in all the others.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from factory.metrics import MetricName
from workers.metrics import copies, likeness, variety
from workers.metrics.measure import Array, Measure
from workers.metrics.utility import utility


@dataclass(frozen=True)
class Row:
    """One sample as it is measured; `vector` is its embedding, of unit length."""

    text: str
    vector: Sequence[float]
    state: str = "accepted"
    audit: bool = False
    label: str | None = None


@dataclass(frozen=True)
class Texts:
    """Texts, their embeddings, (N, D) of unit length, and their labels."""

    texts: tuple[str, ...]
    vectors: Array
    labels: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.texts)

    def part(self, start: int, stop: int) -> "Texts":
        """Those from `start` up to `stop`."""
        return Texts(self.texts[start:stop], self.vectors[start:stop], self.labels[start:stop])


@dataclass(frozen=True)
class Compared:
    """What is measured: a set alone, all of it against real samples, and equal numbers of both."""

    rows: Sequence[Row]
    own: Texts
    against: tuple[Texts, Texts]
    peers: tuple[Texts, Texts]
    suspects: tuple[Texts, Texts]
    are_real: bool  # the suspects are the real ones
    seed: int


def evaluate(
    names: Sequence[MetricName],
    made: Sequence[Row],
    real: Sequence[Row],
    seed: int,
    on_measure: Callable[[int], None] = lambda _: None,
) -> list[Measure]:
    """Measure samples beside real ones. All but yield and acceptance leave out those that were
    filtered out. `on_measure` hears how many are done; what it raises ends the evaluation."""
    valid = _texts([row for row in made if row.state != "filtered"], seed)
    known = _texts(real, seed)
    one, _ = _halves(known)
    size = min(len(valid), len(one))
    peers = valid.part(0, size), one.part(0, size)
    both = valid, known
    return _measure(names, Compared(made, valid, both, peers, both, False, seed), on_measure)


def reference(
    names: Sequence[MetricName],
    made: int,
    real: Sequence[Row],
    seed: int,
    on_measure: Callable[[int], None] = lambda _: None,
) -> list[Measure]:
    """The same of real samples, for what says something of them: as many as were made where a
    set is seen alone, one half beside the other, and each beside all others for copies."""
    known = _texts(real, seed)
    one, other = _halves(known)
    size = min(made, len(one), len(other))
    peers = other.part(0, size), one.part(0, size)
    alone = known.part(0, made)
    wanted = [name for name in names if name not in OF_ROWS]
    sets = Compared((), alone, (other, one), peers, (known, known), True, seed)
    return _measure(wanted, sets, on_measure)


def _measure(
    names: Sequence[MetricName], sets: Compared, on_measure: Callable[[int], None]
) -> list[Measure]:
    found = []
    for done, name in enumerate(names):
        on_measure(done)
        found.append(MEASURES[name](sets))
    return found


def _texts(rows: Sequence[Row], seed: int) -> Texts:
    """Rows in random order, so that the first of them are a fair choice."""
    order = np.random.default_rng(seed).permutation(len(rows))
    vectors = np.array([rows[i].vector for i in order], dtype=np.float64)
    texts, labels = (tuple(getattr(rows[i], of) for i in order) for of in ("text", "label"))
    return Texts(texts, vectors, labels)


def _halves(texts: Texts) -> tuple[Texts, Texts]:
    middle = len(texts) // 2
    return texts.part(0, middle), texts.part(middle, len(texts))


def _yield(sets: Compared) -> Measure:
    texts, states = [row.text for row in sets.rows], [row.state for row in sets.rows]
    return copies.usable(texts, states, sets.against[1].texts)


def _acceptance(name: MetricName, *, audit: bool) -> Callable[[Compared], Measure]:
    return lambda sets: copies.acceptance(
        name, [row.state for row in sets.rows if row.audit is audit]
    )


def _distinct(n: int) -> Callable[[Compared], Measure]:
    return lambda sets: variety.distinct(sets.own.texts, n)


def _by_vectors(measure: Callable[[Array, Array, int], Measure]) -> Callable[[Compared], Measure]:
    return lambda sets: measure(sets.against[0].vectors, sets.against[1].vectors, sets.seed)


def _by_peers(measure: Callable[[Array, Array, int], Measure]) -> Callable[[Compared], Measure]:
    return lambda sets: measure(sets.peers[0].vectors, sets.peers[1].vectors, sets.seed)


def _by_texts(measure: Callable[..., Measure]) -> Callable[[Compared], Measure]:
    return lambda sets: measure(
        sets.suspects[0].texts, sets.suspects[1].texts, others=sets.are_real
    )


def _utility(sets: Compared) -> Measure:
    """As many train as real ones would; all of the real half is tested on."""
    train, test = sets.peers[0], sets.against[1]
    return utility(train.vectors, train.labels, test.vectors, test.labels, sets.seed)


OF_ROWS = ("yield", "acceptance_guided", "acceptance_audit")
MEASURES: Mapping[MetricName, Callable[[Compared], Measure]] = {
    "yield": _yield,
    "acceptance_guided": _acceptance("acceptance_guided", audit=False),
    "acceptance_audit": _acceptance("acceptance_audit", audit=True),
    "utility": _utility,
    "distinct_1": _distinct(1),
    "distinct_2": _distinct(2),
    "distinct_3": _distinct(3),
    "normalized_ngrams": lambda sets: variety.normalized_ngrams(sets.own.texts),
    "self_bleu": lambda sets: variety.self_bleu(sets.own.texts, sets.seed),
    "self_cosine": lambda sets: variety.self_cosine(sets.own.vectors),
    "duplicates": lambda sets: variety.duplicates(sets.own.texts),
    "cosine_centroid": _by_vectors(likeness.cosine_centroid),
    "cosine_pairwise": _by_vectors(likeness.cosine_pairwise),
    "mauve": _by_peers(likeness.mauve_score),
    "auroc": _by_peers(likeness.auroc),
    "precision": _by_peers(likeness.precision),
    "recall": _by_peers(likeness.recall),
    "coverage": _by_peers(likeness.coverage),
    "length": lambda sets: variety.length(sets.own.texts, sets.seed),
    "verbatim": _by_texts(copies.verbatim),
    "near_copies_ngram": _by_texts(copies.near_copies_ngram),
    "near_copies_embedding": lambda sets: copies.near_copies_embedding(
        sets.suspects[0].vectors, sets.suspects[1].vectors, others=sets.are_real
    ),
}
