"""The metrics that an evaluate job can take: their names, and what they say in plain words."""

from dataclasses import dataclass
from typing import Literal, get_args

MetricName = Literal[
    "yield",
    "acceptance_guided",
    "acceptance_audit",
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
    "verbatim",
    "near_copies_ngram",
    "near_copies_embedding",
    "length",
]
NAMES: tuple[MetricName, ...] = get_args(MetricName)


@dataclass(frozen=True)
class Metric:
    """One metric in words. `is_share`: it lies between 0 and 1."""

    title: str
    says: str
    is_share: bool = True


METRICS: dict[MetricName, Metric] = {
    "yield": Metric(
        "Yield", "Unique, valid, no copy of a real sample, not refused. More is better."
    ),
    "acceptance_guided": Metric(
        "Accepted, with feedback", "Of those with a verdict. More is better."
    ),
    "acceptance_audit": Metric(
        "Accepted, without feedback", "The same among samples made without feedback."
    ),
    "distinct_1": Metric("Distinct-1", "Different words per word. Compare sets of one size."),
    "distinct_2": Metric("Distinct-2", "Different pairs of words per pair."),
    "distinct_3": Metric("Distinct-3", "Different runs of three words per run."),
    "normalized_ngrams": Metric(
        "Normalised n-grams", "Distinct-2, -3 and -4 multiplied. More is more varied."
    ),
    "self_bleu": Metric("Self-BLEU", "How well the others foretell a sample. Less is more varied."),
    "self_cosine": Metric(
        "Self-cosine", "How alike two samples are in meaning. Less is more varied."
    ),
    "duplicates": Metric("Duplicates", "Samples with the words of another. Less is better."),
    "cosine_centroid": Metric(
        "Cosine to the centre", "How near samples are to the middle of the real ones."
    ),
    "cosine_pairwise": Metric("Cosine to real", "How alike a sample and a real one are."),
    "mauve": Metric("MAUVE", "How well both distributions agree. As high as real is best."),
    "auroc": Metric(
        "Told from real (AUROC)", "A classifier tells samples from real ones. 50 %: it cannot."
    ),
    "precision": Metric("Precision", "Samples that lie among the real ones."),
    "recall": Metric("Recall", "Real samples that lie among the samples."),
    "coverage": Metric("Coverage", "Real samples with a sample nearby. More is better."),
    "verbatim": Metric("Copies", "Samples with all the words of a real one. Less is better."),
    "near_copies_ngram": Metric(
        "Near-copies by words", "Samples of which 80 % is in one real sample. Less is better."
    ),
    "near_copies_embedding": Metric(
        "Near-copies by meaning", "Samples with a real one at a cosine of .95 or more."
    ),
    "length": Metric("Length", "Words and marks in a sample.", is_share=False),
}
