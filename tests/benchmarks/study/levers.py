"""What can be done about rejections: each lever turns reviewed texts into a way to make texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from factory.feedback import Gates
from factory.guidance import Guidance
from tests.benchmarks.study.beds import Bed, Pick, Setting
from tests.benchmarks.study.measures import vectors
from workers.decoding import HeadTerm
from workers.levers.gates import Gatekeeper
from workers.levers.head import fit_head

NEGATIVES = 3
ETA = 1.0
WEIGHT, CAP = 3.0, 0.3  # of the verdict head, as a dataset has it unless it says otherwise


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
    """A plausibility mask of .9: likewise."""
    return replace(case.plain, guidance=replace(case.plain.guidance, nucleus=0.9))


def negatives(case: Case) -> Setting:
    """Three random rejected texts in the negative prompt."""
    rejected, _ = split(case.reviewed)
    return _steered(case, lambda rng, _: (rng.sample(rejected, min(NEGATIVES, len(rejected))), ()))


def centred(case: Case) -> Setting:
    """The same, centred on the accepted texts nearest to them."""
    rejected, accepted = split(case.reviewed)
    if not rejected or not accepted:
        return negatives(case)
    nearest = (vectors(rejected) @ vectors(accepted).T).argmax(axis=1)

    def pick(rng: Random, _: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
        chosen = rng.sample(range(len(rejected)), min(NEGATIVES, len(rejected)))
        return [rejected[i] for i in chosen], [accepted[nearest[i]] for i in chosen]

    return _steered(case, pick)


def verdict_head(case: Case) -> Setting:
    """A head on the expert's hidden states; nothing where it is refused."""
    layout = case.bed.layout
    ids = [layout.list_ids([r.text])[len(layout.prompt_ids()) :] for r in case.reviewed]
    accepted = [not r.rejected for r in case.reviewed]
    fitted = fit_head(case.bed.pair, layout.prompt_ids(), ids, accepted)
    if fitted.head is None:
        return case.plain
    return replace(case.plain, head=HeadTerm(fitted.head, WEIGHT, CAP))


def gate(case: Case) -> Setting:
    """Texts that are near-copies of real ones are made anew."""
    gatekeeper = Gatekeeper(Gates(against=("real",)))
    for text in case.bed.real:
        gatekeeper.add("real", text)
    return replace(case.plain, keep=lambda text: gatekeeper.reason(text) is None)


def together(case: Case) -> Setting:
    """Head, centred negatives and gate."""
    guided = centred(case)
    return replace(guided, head=verdict_head(case).head, keep=gate(case).keep)


def shuffled(case: Case) -> Setting:
    """Negatives when every verdict is given to another text: shows what the verdicts carry."""
    verdicts = [r.rejected for r in case.reviewed]
    case.rng.shuffle(verdicts)
    pairs = zip(case.reviewed, verdicts, strict=True)
    return negatives(replace(case, reviewed=[Reviewed(r.text, v) for r, v in pairs]))


def unguided(nucleus: float) -> Setting:
    """The expert behind its mask."""
    return Setting(Guidance(eta=0, nucleus=nucleus))


def split(reviewed: Sequence[Reviewed]) -> tuple[list[str], list[str]]:
    """Different rejected texts, and different accepted ones."""
    rejected = dict.fromkeys(r.text for r in reviewed if r.rejected)
    accepted = dict.fromkeys(r.text for r in reviewed if not r.rejected)
    return list(rejected), [text for text in accepted if text not in rejected]


LEVERS: dict[str, Lever] = {
    "none": none,
    "temperature .5": temperature,
    "mask .9": mask,
    "shuffled verdicts": shuffled,
    "negatives": negatives,
    "centred negatives": centred,
    "verdict head": verdict_head,
    "near-copy gate": gate,
    "head, centred, gate": together,
}


def _steered(case: Case, pick: Pick) -> Setting:
    return replace(case.plain, guidance=replace(case.plain.guidance, eta=ETA), pick=pick)
