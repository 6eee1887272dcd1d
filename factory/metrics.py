"""The metrics that an evaluate job can take: their names, and what they say in plain words."""

from dataclasses import dataclass
from typing import Literal, get_args

MetricName = Literal[
    "yield",
    "acceptance_guided",
    "acceptance_audit",
    "utility",
    "distinct_1",
    "distinct_2",
    "distinct_3",
    "normalized_ngrams",
    "self_bleu",
    "self_cosine",
    "duplicates",
    "cosine_centroid",
    "cosine_pairwise",
    "mauve",
    "auroc",
    "precision",
    "recall",
    "coverage",
    "length",
    "verbatim",
    "near_copies_ngram",
    "near_copies_embedding",
]
NAMES: tuple[MetricName, ...] = get_args(MetricName)


@dataclass(frozen=True)
class Metric:
    """One metric in words. `is_share`: it lies between 0 and 1."""

    group: str
    title: str
    says: str
    is_share: bool = True


USE, VARIETY, LIKENESS, COPIES = "Use", "Variety", "Like the real ones", "Copies"

METRICS: dict[MetricName, Metric] = {
    "yield": Metric(
        USE, "Yield", "Unique, valid, no copy of a real sample, not refused. More is better."
    ),
    "acceptance_guided": Metric(
        USE, "Accepted, with feedback", "Of those with a verdict. More is better."
    ),
    "acceptance_audit": Metric(
        USE, "Accepted, without feedback", "The same among samples made without feedback."
    ),
    "utility": Metric(
        USE,
        "Downstream utility",
        "A classifier trained on samples finds the labels of real ones. More is better.",
    ),
    "distinct_1": Metric(
        VARIETY, "Distinct-1", "Different words per word. Compare sets of one size."
    ),
    "distinct_2": Metric(VARIETY, "Distinct-2", "Different pairs of words per pair."),
    "distinct_3": Metric(VARIETY, "Distinct-3", "Different runs of three words per run."),
    "normalized_ngrams": Metric(
        VARIETY, "Normalised n-grams", "Distinct-2, -3 and -4 multiplied. More is more varied."
    ),
    "self_bleu": Metric(
        VARIETY, "Self-BLEU", "How well the others foretell a sample. Less is more varied."
    ),
    "self_cosine": Metric(
        VARIETY, "Self-cosine", "How alike two samples are in meaning. Less is more varied."
    ),
    "duplicates": Metric(
        VARIETY, "Duplicates", "Samples with the words of another. Less is better."
    ),
    "cosine_centroid": Metric(
        LIKENESS, "Cosine to the centre", "How near samples are to the middle of the real ones."
    ),
    "cosine_pairwise": Metric(LIKENESS, "Cosine to real", "How alike a sample and a real one are."),
    "mauve": Metric(
        LIKENESS, "MAUVE", "How well both distributions agree. As high as real is best."
    ),
    "auroc": Metric(
        LIKENESS,
        "Told from real (AUROC)",
        "A classifier tells samples from real ones. 50 %: it cannot.",
    ),
    "precision": Metric(LIKENESS, "Precision", "Samples that lie among the real ones."),
    "recall": Metric(LIKENESS, "Recall", "Real samples that lie among the samples."),
    "coverage": Metric(LIKENESS, "Coverage", "Real samples with a sample nearby. More is better."),
    "length": Metric(LIKENESS, "Length", "Words and marks in a sample.", is_share=False),
    "verbatim": Metric(
        COPIES, "Verbatim copies", "Samples with all the words of a real one. Less is better."
    ),
    "near_copies_ngram": Metric(
        COPIES,
        "Near-copies by words",
        "Samples of which 80 % is in one real sample. Less is better.",
    ),
    "near_copies_embedding": Metric(
        COPIES, "Near-copies by meaning", "Samples with a real one at a cosine of .95 or more."
    ),
}
