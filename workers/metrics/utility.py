"""What samples are worth to a classifier: trained on them, tested on real ones."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from workers.metrics.measure import Array, Measure, bootstrap, measured, unknown

LEAST = 20  # labelled samples on each side

Labels = Sequence[str | None]
Names = NDArray[np.str_]


def utility(made: Array, labels: Labels, real: Array, real_labels: Labels, seed: int) -> Measure:
    """Balanced accuracy on real samples of a logistic regression trained on these samples'
    embeddings, (N, D) of unit length: the mean over labels of the share that is found.

    Chance is one by the number of labels. A label that no sample carries is never found. The
    interval draws the tested ones of each label anew, with the classifier as it is.
    """
    train, taught = _labelled(made, labels)
    test, true = _labelled(real, real_labels)
    if reason := _missing(taught, true):
        return unknown("utility", len(taught), reason)
    with threadpool_limits(1):
        model = LogisticRegression(max_iter=1000, class_weight="balanced").fit(train, taught)
    found = np.array(model.predict(test) == true, dtype=np.float64)
    by_label = [found[true == label] for label in np.unique(true)]
    interval = bootstrap(_balanced, *by_label, seed=seed)
    return measured("utility", _balanced(*by_label), interval, len(taught))


def _balanced(*found: Array) -> float:
    return float(np.mean([each.mean() for each in found]))


def _labelled(vectors: Array, labels: Labels) -> tuple[Array, Names]:
    places = [place for place, label in enumerate(labels) if label is not None]
    return vectors[places], np.array([labels[place] for place in places], dtype=np.str_)


def _missing(taught: Names, true: Names) -> str | None:
    """Why nothing can be said; None when something can."""
    if len(np.unique(true)) < 2 or len(true) < LEAST:
        return f"{2 * LEAST} real samples with two labels or more are needed; half are tested on."
    if len(np.unique(taught)) < 2 or len(taught) < LEAST:
        return (
            f"{LEAST} samples with two labels or more are needed. A job's `label` gives them one."
        )
    return None
