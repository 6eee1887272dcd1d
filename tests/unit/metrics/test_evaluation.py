"""An evaluation: every metric by its name, beside what real samples score among themselves."""

from random import Random

import numpy as np
import pytest

from factory.metrics import METRICS, NAMES
from workers.metrics import Row, evaluate, reference

WORDS = [f"{a}{b}" for a in "bdklmr" for b in "aeiou"]
COPIES = ("verbatim", "near_copies_ngram", "near_copies_embedding")  # beside all real ones
BY_PEERS = ("mauve", "auroc", "precision", "recall", "coverage")


def rows(count: int, seed: int, shift: float = 0.0) -> list[Row]:
    rng, numbers = Random(seed), np.random.default_rng(seed)
    vectors = numbers.normal(size=(count, 8))
    vectors[:, 0] += shift
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [Row(" ".join(rng.choices(WORDS, k=8)), vector.tolist()) for vector in vectors]


def test_every_metric_has_a_name_words_and_a_measure() -> None:
    found = evaluate(NAMES, rows(160, 1), rows(320, 2), seed=3)
    assert [measure.name for measure in found] == list(NAMES) == list(METRICS)
    unknown = [measure.name for measure in found if measure.value is None]
    assert unknown == ["acceptance_audit", "utility"]  # none is of the audit, none has a label
    for measure in found:
        if measure.value is not None and measure.low is not None and measure.high is not None:
            assert measure.low - 1e-9 <= measure.value <= measure.high + 1e-9


def test_samples_of_the_real_source_score_as_real_ones_do() -> None:
    real = rows(320, 2)
    made = evaluate(NAMES, rows(160, 1), real, seed=3)
    natural = {measure.name: measure for measure in reference(NAMES, 160, real, seed=3)}
    for measure in made:
        other = natural.get(measure.name)
        if other is None or None in (measure.value, other.value):
            continue
        assert (measure.n, other.n) == ((160, 320) if measure.name in COPIES else (measure.n,) * 2)
        widths = (measure.high or 0) - (measure.low or 0) + (other.high or 0) - (other.low or 0)
        assert abs((measure.value or 0) - (other.value or 0)) <= widths + 1e-9, measure.name


def test_samples_of_another_source_are_told_from_real_ones() -> None:
    real = rows(320, 2)
    made = {m.name: m for m in evaluate(BY_PEERS, rows(160, 1, shift=5), real, seed=3)}
    natural = {m.name: m for m in reference(BY_PEERS, 160, real, seed=3)}
    assert (made["auroc"].low or 0) > (natural["auroc"].high or 1)
    for name in ("mauve", "recall", "coverage"):
        assert (made[name].high or 1) < (natural[name].low or 0)


def test_filtered_samples_count_for_the_yield_only() -> None:
    made = rows(30, 1)
    with_filtered = [*made, *[Row("", made[0].vector, state="filtered")] * 10]
    alone = {m.name: m for m in evaluate(NAMES, made, rows(60, 2), seed=3)}
    both = {m.name: m for m in evaluate(NAMES, with_filtered, rows(60, 2), seed=3)}
    assert (alone["yield"].value, both["yield"].value) == (1, 30 / 40)
    assert both["duplicates"].value == 0
    assert both["length"].value == 8
    assert both["coverage"].n == alone["coverage"].n == 30


def test_audit_and_guided_are_told_apart() -> None:
    made = [
        Row("a", [1.0], "accepted"),
        Row("b", [1.0], "rejected"),
        Row("c", [1.0], "rejected", audit=True),
    ]
    names = ("acceptance_guided", "acceptance_audit")
    guided, audit = evaluate(names, made, [], seed=0)
    assert (guided.value, guided.n, audit.value, audit.n) == (1 / 2, 2, 0, 1)


@pytest.mark.parametrize(("made", "real"), [(0, 0), (0, 3), (3, 0), (1, 1), (19, 300), (300, 19)])
def test_any_number_of_samples_gives_a_value_or_a_reason(made: int, real: int) -> None:
    found = evaluate(NAMES, rows(made, 1), rows(real, 2), seed=0)
    found += reference(NAMES, made, rows(real, 2), seed=0)
    assert all(bool(measure.note) for measure in found if measure.value is None)
    assert not any(np.isnan(measure.value) for measure in found if measure.value is not None)


def test_whoever_listens_hears_of_each_measure_and_may_end_it() -> None:
    heard: list[int] = []
    evaluate(("length", "duplicates"), rows(3, 1), [], 0, heard.append)
    assert heard == [0, 1]

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(("length",), rows(3, 1), [], 0, stop)
