"""Where levers are fitted on the newest evidence and put to work.

A lever is fitted from scratch when a job starts and its evidence has changed, and during a job
after REFIT_AFTER new verdicts.
"""

import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from sqlalchemy.orm import Session

from factory import levers, log
from factory.db import Database
from factory.errors import NumericalError
from factory.feedback import Adapters, Feedback, Filter, Gates, Head, NegativePrompt, digest
from factory.levers import Fit, Verdict
from factory.settings import Settings
from factory.spec import GenerateSpec
from factory.tables import EMBEDDING_DIMENSIONS, FittedLever
from workers.embedding import Embedder
from workers.layout import Layout
from workers.levers import filter as filters
from workers.levers import store
from workers.levers.acting import Acting, Use, adapters_of, head_of
from workers.levers.adapters import AdaptersTerm
from workers.levers.filter import fit_filter
from workers.levers.gates import Gatekeeper
from workers.levers.head import fit_head
from workers.levers.judge import Judge
from workers.levers.keywords import Keyword, fit_keywords
from workers.levers.sanity import Sanity
from workers.levers.tuning import fit_adapters, recipe_of
from workers.levers.variety import LIMIT, variety_fall
from workers.levers.verdict import HeadTerm
from workers.pairs import LoadedPair
from workers.training.expert import ExpertConfig
from workers.training.tuner import Tuner

REFIT_AFTER = 10  # verdicts that are new, changed or gone since the last fit
NEWEST = 1000  # samples of either kind whose variety is compared
LEAST = 1 / 16  # levers are not halved further
NO_ADAPTER = "it needs an expert that is a LoRA adapter of its base, applied row by row"
NO_ROOM = (
    "tuning adapters takes more memory than the device has beside the pair: a copy of the base, "
    "and a step's gradients"
)

ResultT = TypeVar("ResultT")
Watch = Callable[[], None]

logger = log.get(__name__)


@dataclass
class Bench:
    """Where levers are fitted and put to work, for one worker."""

    database: Database
    settings: Settings
    embedder: Callable[[], Embedder]

    def ready(
        self,
        dataset_id: uuid.UUID,
        spec: GenerateSpec,
        pair: LoadedPair,
        *,
        watch: Watch,
        job_id: uuid.UUID | None = None,
        starting: bool = False,
    ) -> Acting:
        """The levers of the guided rows of a job, or of a preview. watch: called at each step of a
        fit that takes long, and what it raises ends it. starting: the job starts, so that any new
        verdict counts. Raises FactoryError."""
        feedback = spec.feedback or Feedback()
        return _Run(self, dataset_id, spec, pair, feedback, watch, job_id, starting).acting()

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Unit vectors. The number of threads stays as it is: it decides the last bits of what
        is decoded."""
        threads = torch.get_num_threads()
        try:
            return self.embedder().embed_texts(texts)
        finally:
            torch.set_num_threads(threads)


@dataclass
class _Run:
    """Getting ready for one attempt."""

    bench: Bench
    dataset_id: uuid.UUID
    spec: GenerateSpec
    pair: LoadedPair
    feedback: Feedback
    watch: Watch
    job_id: uuid.UUID | None
    starting: bool
    _verdicts: list[Verdict] = field(default_factory=list)

    def acting(self) -> Acting:
        used = self.feedback.levers
        if used.learn:
            self._verdicts = self._do(levers.evidence, self.feedback.window)
        scale, why = self._scale()
        gates, gatekeeper = self._gates(used.gates)
        negatives = self._negatives(used.negatives, scale)
        head, term = self._head(used.verdict_head, scale)
        tuned, adapters = self._adapters(used.adapters, scale)
        ranked, found, threshold = self._filter(used.filter, scale)
        uses = [use for use in (gates, negatives, head, tuned, ranked) if use is not None]
        for use in uses if why else []:
            use["backed_off"] = why
        by_meaning = found is not None or (gatekeeper and gatekeeper.gates.nearness is not None)
        embed = self.bench.embed if by_meaning else None
        return Acting(
            tuple(uses),
            eta=negatives["weight"] if negatives else 0.0,
            center=negatives["center"] if negatives else None,
            head=term,
            adapters=adapters,
            window=self.feedback.window,
            judge=Judge(gatekeeper, found, threshold, embed) if gatekeeper or found else None,
        )

    def _negatives(self, lever: NegativePrompt | None, scale: float) -> Use | None:
        if lever is None:
            return None
        center = self.spec.negatives.center if lever.center is None else lever.center
        said = {"center": center, "window": self.feedback.window.model_dump()}
        note = None if lever.told_apart is None else self._alike(lever)
        return {
            "name": "negatives",
            "digest": digest(said),
            "weight": 0.0 if note else lever.weight * scale,
            "center": center,
            "note": note,
        }

    def _alike(self, lever: NegativePrompt) -> str | None:
        """Why rejected texts cannot be told from accepted ones; None: they can, or too few
        verdicts are in to know."""
        auroc = (self._ranking().result or {}).get("auroc")
        if not lever.rests(auroc):
            return None
        return (
            f"rejected texts are not told from accepted ones by what they say: AUROC "
            f"{auroc:.2f} on held-out texts, {lever.told_apart:.2f} needed"
        )

    def _gates(self, lever: Gates | None) -> tuple[Use | None, Gatekeeper | None]:
        if lever is None:
            return None, None
        keywords = self._keywords() if lever.keywords else []
        keeper = Gatekeeper(lever, keywords)
        if lever.copies is not None or lever.nearness is not None:
            for stored in self._do(levers.texts, lever.against, self.job_id):
                keeper.add(stored.origin, stored.text, stored.embedding)
        rules = lever.model_dump(mode="json", exclude={"keywords"})
        rules["keywords"] = [vars(keyword) for keyword in keywords]
        return {"name": "gates", "digest": digest(rules), "weight": 1.0, "rules": rules}, keeper

    def _keywords(self) -> list[Keyword]:
        row = self._fitted("gates", {"keywords": True}, self._fit_keywords)
        return [Keyword(**keyword) for keyword in row.result["keywords"]]

    def _fit_keywords(self) -> Fit:
        said = self._verdicts
        found = fit_keywords(
            [v.text for v in said], [v.accepted for v in said], [v.reasons for v in said]
        )
        keywords = [vars(keyword) for keyword in found]
        return self._fit("gates", {"keywords": True}, digest(keywords), {"keywords": keywords})

    def _head(self, lever: Head | None, scale: float) -> tuple[Use | None, HeadTerm | None]:
        if lever is None:
            return None, None
        settings = {"rank": lever.rank, **self._expert}
        row = self._fitted("verdict_head", settings, lambda: self._fit_head(settings, lever.rank))
        use = _use(row, lever.weight * scale, cap=lever.cap * scale)
        term = head_of(self.bench.settings, use) if row.digest else None
        return use, term

    def _fit_head(self, settings: dict[str, Any], rank: int) -> Fit:
        layout = Layout(self.pair.tokenizer, self.spec.prompt or "")
        eos = int(self.pair.tokenizer.eos_token_id)
        ids = [(*layout.text_ids(v.text), eos) for v in self._verdicts]
        accepted = [v.accepted for v in self._verdicts]
        found = fit_head(self.pair.models, layout.prompt_ids(), ids, accepted, rank=rank)
        kept = store.keep(self.bench.settings, vars(found.head)) if found.head else None
        return self._fit("verdict_head", settings, kept, _result(found.sanity), found.refused)

    def _adapters(
        self, lever: Adapters | None, scale: float
    ) -> tuple[Use | None, AdaptersTerm | None]:
        if lever is None:
            return None, None
        recipe = recipe_of(lever)
        settings = {**asdict(recipe), **self._expert}
        row = self._fitted("adapters", settings, lambda: self._fit_adapters(settings, recipe))
        use = _use(row, lever.weight * scale, cap=lever.cap * scale)
        return use, adapters_of(self.bench.settings, use) if row.digest else None

    def _fit_adapters(self, settings: dict[str, Any], recipe: ExpertConfig) -> Fit:
        if self.pair.models.kind != "lora":
            return self._fit("adapters", settings, None, {}, NO_ADAPTER)
        texts, accepted = ([getattr(v, of) for v in self._verdicts] for of in ("text", "accepted"))
        self.pair.free_memory()
        try:
            found = fit_adapters(lambda: self._tuner(recipe), texts, accepted, watch=self.watch)
        except (torch.OutOfMemoryError, NumericalError) as error:
            why = error.detail if isinstance(error, NumericalError) else NO_ROOM
            return self._fit("adapters", settings, None, {}, why)
        finally:
            self.pair.free_memory()
        kept = store.keep(self.bench.settings, found.tensors) if found.tensors else None
        return self._fit("adapters", settings, kept, _result(found.sanity), found.refused)

    def _tuner(self, recipe: ExpertConfig) -> Tuner:
        pair, layout = self.pair, Layout(self.pair.tokenizer, self.spec.prompt or "")
        on = str(pair.models.device), pair.models.dtype
        return Tuner.load(pair.base, pair.expert, layout, recipe, *on)

    @property
    def _expert(self) -> dict[str, Any]:
        """What tells a lever of this expert from another's."""
        digests = self.pair.digests
        return {"expert": digests.expert, "base": digests.base, "prompt": self.spec.prompt}

    def _filter(
        self, lever: Filter | None, scale: float
    ) -> tuple[Use | None, filters.Filter | None, float]:
        if lever is None:
            return None, None, 0.0
        row = self._ranking()
        cut = (1 - lever.keep) * scale
        if row.digest is None:
            return _use(row, cut), None, 0.0
        kept = store.recall(self.bench.settings, row.digest)
        found = filters.Filter(
            kept["weights"].numpy(), float(kept["bias"]), kept["held_out"].numpy()
        )
        threshold = found.threshold(1 - cut)
        return _use(row, cut, threshold=threshold), found, threshold

    def _ranking(self) -> FittedLever:
        """The classifier of embeddings, for the filter and for whether negatives are of use."""
        settings = {"embedding": self.bench.settings.embedding_model}
        return self._fitted("filter", settings, lambda: self._fit_filter(settings))

    def _fit_filter(self, settings: dict[str, Any]) -> Fit:
        vectors = self._vectors()
        found = fit_filter(vectors, [v.accepted for v in self._verdicts])
        kept = None
        if found.filter is not None:
            parts = {name: torch.tensor(value) for name, value in vars(found.filter).items()}
            kept = store.keep(self.bench.settings, parts)
        return self._fit("filter", settings, kept, _result(found.sanity), found.refused)

    def _vectors(self) -> filters.Vectors:
        """The evidence's embeddings; those that are not stored yet are made."""
        missing = [v.text for v in self._verdicts if v.embedding is None]
        made = iter(self.bench.embed(missing) if missing else [])
        rows = [next(made) if v.embedding is None else v.embedding for v in self._verdicts]
        return np.array(rows, dtype=np.float32).reshape(len(rows), EMBEDDING_DIMENSIONS)

    def _fitted(self, name: str, settings: dict[str, Any], fit: Callable[[], Fit]) -> FittedLever:
        """The fit to use: the last one, or a new one where the evidence asks for it."""
        key = levers.made_from(self.dataset_id, name, settings, self._verdicts)
        row = self._do_with(lambda session: self._good_enough(session, name, settings, key))
        if row is None:
            found = fit()
            logger.info("lever.fitted", lever=name, digest=found.digest, note=found.note)
            row = self._do_with(lambda s: levers.note(s, self.dataset_id, key, found))
        return row

    def _good_enough(
        self, session: Session, name: str, settings: dict[str, Any], key: str
    ) -> FittedLever | None:
        same = levers.fitted(session, key)
        last = levers.newest(session, self.dataset_id, name, settings)
        if same is not None or last is None or self.starting:
            return same
        until = last.evidence_until
        new = sum(until is None or v.given_at > until for v in self._verdicts)
        changed = max(new, abs(len(self._verdicts) - last.verdicts))
        return last if changed < REFIT_AFTER else None

    def _fit(
        self,
        name: str,
        settings: dict[str, Any],
        kept: str | None,
        result: dict[str, Any],
        note: str | None = None,
    ) -> Fit:
        said = self._verdicts
        return Fit(
            name,
            settings,
            kept,
            len(said),
            sum(not v.accepted for v in said),
            max((v.given_at for v in said), default=None),
            result,
            note,
        )

    def _scale(self) -> tuple[float, str | None]:
        """By how much every weight is lowered because variety fell, and why. Looks whether it
        fell since."""
        setting = self.feedback.model_dump(mode="json")
        last = self._do_with(lambda s: levers.newest(s, self.dataset_id, levers.BACK_OFF, setting))
        scale = float(last.result["scale"]) if last else 1.0
        since = last.fitted_at if last else None
        guided, audit = self._do(levers.variety_texts, setting, since, NEWEST)
        fall = variety_fall(guided, audit)
        if fall is None or fall <= LIMIT or scale <= LEAST:
            return scale, last.note if last else None
        note = (
            f"distinct-3 of guided samples was {fall:.0%} below the audit's: weights are at "
            f"{scale / 2:g} of what was set, until the setting changes"
        )
        result = {"scale": scale / 2, "fall": fall}
        fit = Fit(levers.BACK_OFF, setting, None, len(guided), 0, None, result, note)
        key = digest([str(self.dataset_id), levers.BACK_OFF, setting, scale / 2])
        logger.warning("lever.backed_off", scale=scale / 2, fall=fall)
        row = self._do_with(lambda s: levers.note(s, self.dataset_id, key, fit))
        return scale / 2, row.note

    def _do(self, find: Callable[..., Any], *given: Any) -> Any:
        return self._do_with(lambda session: find(session, self.dataset_id, *given))

    def _do_with(self, work: Callable[[Session], ResultT]) -> ResultT:
        return self.bench.database.retrying(work)


def _use(row: FittedLever, weight: float, **more: Any) -> Use:
    """What provenance says of a fitted lever; one that does not act has weight 0 and says why."""
    return {
        "name": row.name,
        "digest": row.digest,
        "weight": weight if row.digest else 0.0,
        "verdicts": row.verdicts,
        "rejected": row.rejected,
        "fitted_at": row.fitted_at.isoformat(),
        "note": row.note,
        **more,
    }


def _result(sanity: Sanity | None) -> dict[str, Any]:
    return vars(sanity) if sanity else {}
