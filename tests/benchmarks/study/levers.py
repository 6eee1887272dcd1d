"""What can be done about rejections: each lever turns reviewed texts into a way to make texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from random import Random

import numpy as np

from factory import settings
from factory.feedback import RECOMMENDED, Head, NegativePrompt
from factory.feedback import Adapters as AdaptersSetting
from factory.guidance import Guidance
from factory.ids import new_id
from tests.benchmarks.study.beds import Bed, Pick, Setting
from tests.benchmarks.study.measures import Copies
from workers import embedding
from workers.embedding import Embedder
from workers.levers.adapters import Adapters, AdaptersTerm
from workers.levers.filter import FittedFilter, Vectors, fit_filter
from workers.levers.head import fit_head
from workers.levers.sanity import FOLDS
from workers.levers.tuning import BATCH, fit_adapters, recipe_of
from workers.levers.verdict import HeadTerm
from workers.training.tuner import Tuner

NEGATIVES = 3
ETA = 1.0
KEEP = 0.7
HEAD = RECOMMENDED.verdict_head or Head()
ADAPTERS = AdaptersSetting()
TOLD_APART = (RECOMMENDED.negatives or NegativePrompt()).told_apart or 0.0  # AUROC
MASK = Guidance().mass  # the product's own
CONSTANTS = (NEGATIVES, ETA, HEAD.weight, HEAD.cap, KEEP, MASK, 1.0)  # all made so far has these
BY_MEANING = ("centred negatives", "centred negatives, η = 2", "filter", "recommended")


@dataclass(frozen=True)
class Reviewed:
    """A text and the verdict on it."""

    text: str
    rejected: bool


@dataclass(frozen=True)
class Case:
    """What a lever is made from: an expert, the setting it writes with otherwise, and verdicts."""

    bed: Bed
    plain: Setting
    reviewed: Sequence[Reviewed]
    rng: Random


Lever = Callable[[Case], Setting]


def none(case: Case) -> Setting:
    """Nothing, whatever was said."""
    return case.plain


def temperature(case: Case) -> Setting:
    """Temperature .5: safer text without any verdict."""
    return replace(case.plain, sampling=replace(case.plain.sampling, temperature=0.5))


def mask(case: Case) -> Setting:
    """The factory's default mask: likewise. Where the others have it too, this is `none`."""
    return masked(case.plain)


def negatives(case: Case) -> Setting:
    """Three random rejected texts in the negative prompt."""
    rejected, _ = split(case.reviewed)
    return _steered(case, lambda rng, _: (rng.sample(rejected, min(NEGATIVES, len(rejected))), ()))


def centred(case: Case, eta: float = ETA) -> Setting:
    """The same, centred on the accepted texts nearest to them in meaning."""
    rejected, accepted = split(case.reviewed)
    if not rejected or not accepted:
        return negatives(case)
    nearest = (_vectors(rejected) @ _vectors(accepted).T).argmax(axis=1)

    def pick(rng: Random, _: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
        chosen = rng.sample(range(len(rejected)), min(NEGATIVES, len(rejected)))
        return [rejected[i] for i in chosen], [accepted[nearest[i]] for i in chosen]

    return _steered(case, pick, eta)


def shuffled(case: Case) -> Setting:
    """Negatives when every verdict is given to another text: shows what the verdicts carry."""
    verdicts = [r.rejected for r in case.reviewed]
    case.rng.shuffle(verdicts)
    pairs = zip(case.reviewed, verdicts, strict=True)
    return negatives(replace(case, reviewed=[Reviewed(r.text, v) for r, v in pairs]))


def gate(case: Case) -> Setting:
    """Near-copies of real samples are made anew; needs no verdict."""
    copies = Copies(case.bed.real)
    return replace(case.plain, keep=lambda text: not copies.near(text))


def ranked(case: Case) -> Setting:
    """Texts that the filter ranks below the best `KEEP` of the reviewed ones are made anew."""
    found = _ranking(case).filter
    if found is None:
        return case.plain
    least = found.threshold(KEEP)

    def keep(text: str) -> bool:
        return float(found.scores(_vectors([text]))[0]) >= least

    return replace(case.plain, keep=keep)


def head(case: Case) -> Setting:
    """The verdict head; nothing where it knows no more than one fitted on shuffled verdicts."""
    layout, eos = case.bed.layout, case.bed.pair.eos_ids
    found = fit_head(
        case.bed.pair,
        layout.prompt_ids(),
        [(*layout.text_ids(r.text), min(eos)) for r in case.reviewed],
        [not r.rejected for r in case.reviewed],
    ).head
    terms = () if found is None else (HeadTerm(found, HEAD.weight, HEAD.cap),)
    return replace(case.plain, terms=terms)


def adapters(case: Case) -> Setting:
    """The expert's adapter tuned on accepted and on rejected texts; nothing where that is of no
    use, or the expert is no adapter."""
    bed = case.bed
    if bed.pair.kind != "lora":
        return case.plain
    found = fit_adapters(
        lambda: Tuner.load(bed.base, bed.expert, bed.layout, recipe_of(ADAPTERS)),
        [r.text for r in case.reviewed],
        [not r.rejected for r in case.reviewed],
    ).tensors
    if found is None:
        return case.plain
    tuned = Adapters.of(new_id().hex, found)
    return replace(case.plain, terms=(AdaptersTerm(tuned, ADAPTERS.weight, ADAPTERS.cap),))


def recommended(case: Case) -> Setting:
    """`factory.feedback.RECOMMENDED`, behind the factory's mask: the gate, the verdict head, and
    negatives where rejected texts are told from accepted ones by what they say, or verdicts are
    too few to know."""
    learned = head(case)
    sanity = _ranking(case).sanity
    told = sanity is None or sanity.auroc >= TOLD_APART
    steered = negatives(replace(case, plain=learned)) if told else learned
    return replace(masked(steered), keep=gate(case).keep)


def unguided(nucleus: float) -> Setting:
    """The expert behind its mask."""
    return Setting(Guidance(eta=0, nucleus=nucleus))


def masked(setting: Setting) -> Setting:
    """The setting behind a mask that is no wider than MASK."""
    mass = min(setting.guidance.mass, MASK)
    return replace(setting, guidance=replace(setting.guidance, nucleus=mass))


def constants(lever: str) -> tuple[float | str, ...]:
    """The numbers that a lever is made with, so that what was made with others is made anew."""
    if lever == "A − R adapters":
        tuning = (ADAPTERS.steps, BATCH, ADAPTERS.learning_rate, FOLDS)
        return (*CONSTANTS, ADAPTERS.weight, ADAPTERS.cap, *tuning)
    more = (TOLD_APART,) if lever == "recommended" else ()
    return (*CONSTANTS, *more, embedding.BUILT_IN) if lever in BY_MEANING else CONSTANTS


def split(reviewed: Sequence[Reviewed]) -> tuple[list[str], list[str]]:
    """Different rejected texts, and different accepted ones."""
    rejected = dict.fromkeys(r.text for r in reviewed if r.rejected)
    accepted = dict.fromkeys(r.text for r in reviewed if not r.rejected)
    return list(rejected), [text for text in accepted if text not in rejected]


LEVERS: dict[str, Lever] = {
    "none": none,
    "temperature .5": temperature,
    "mask .95": mask,
    "shuffled verdicts": shuffled,
    "gate": gate,
    "negatives": negatives,
    "centred negatives": centred,
    "centred negatives, η = 2": partial(centred, eta=2.0),
    "verdict head": head,
    "filter": ranked,
    "A − R adapters": adapters,
    "recommended": recommended,
}


def _steered(case: Case, pick: Pick, eta: float = ETA) -> Setting:
    return replace(case.plain, guidance=replace(case.plain.guidance, eta=eta), pick=pick)


def _ranking(case: Case) -> FittedFilter:
    """The classifier of meanings, fitted on the verdicts."""
    texts = [r.text for r in case.reviewed]
    return fit_filter(_vectors(texts), [not r.rejected for r in case.reviewed])


def _vectors(texts: Sequence[str]) -> Vectors:
    """(N, 384) unit vectors of the factory's own embedding model."""
    return np.array([_vector(text) for text in texts], dtype=np.float32)


@lru_cache(maxsize=50_000)
def _vector(text: str) -> tuple[float, ...]:
    return tuple(_embedder().embed_texts([text])[0])


@cache
def _embedder() -> Embedder:
    return embedding.load(settings.load())
