"""Fitting adapters on reviewed texts: two fine-tunes from the expert, from scratch each time.

Whether they know anything is tested on texts held out from further pairs of fine-tunes: a text's
score is the mean over its tokens of A − R. One for shuffled verdicts would cost as many again;
instead the verdicts of the held-out scores are dealt out anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from factory import feedback
from workers.levers.adapters import Adapters
from workers.levers.sanity import Sanity, Verdicts, by_chance, folds, too_few
from workers.training.expert import ExpertConfig
from workers.training.tuner import Tuner

BATCH = 8  # documents of one step

Watch = Callable[[], None]


@dataclass(frozen=True)
class FittedAdapters:
    """Both adapters' tensors, how well they foretell verdicts, and why they should not be used,
    if so."""

    tensors: dict[str, Tensor] | None
    sanity: Sanity | None
    refused: str | None


def recipe_of(setting: feedback.Adapters) -> ExpertConfig:
    """How each adapter is tuned."""
    return ExpertConfig(steps=setting.steps, batch=BATCH, learning_rate=setting.learning_rate)


def fit_adapters(
    load: Callable[[], Tuner],
    texts: Sequence[str],
    accepted: Sequence[bool],
    *,
    seed: int = 0,
    watch: Watch = lambda: None,
) -> FittedAdapters:
    """Tune the expert's adapter on accepted and on rejected texts.

    load: what tunes; asked for where there are verdicts enough. watch: called after every step,
    and what it raises ends the fit. `tensors` is None, and `refused` says why, with fewer than
    MINIMUM texts of either verdict, or when A − R foretells those of held-out texts no better
    than chance. Raises ModelError, NumericalError.
    """
    if why := too_few(accepted):
        return FittedAdapters(None, None, why)
    fit = _Fit(load(), texts, np.array(accepted, dtype=bool), watch)
    sanity = by_chance(fit.verdicts, fit.held_out(seed), seed)
    if sanity.refusal:
        return FittedAdapters(None, sanity, sanity.refusal)
    everything = np.ones(len(texts), dtype=bool)
    both = (fit.tune(everything, good).adapter() for good in (True, False))
    return FittedAdapters(Adapters("", *both).tensors, sanity, None)


@dataclass(frozen=True)
class _Fit:
    tuner: Tuner
    texts: Sequence[str]
    verdicts: Verdicts
    watch: Watch

    def tune(self, among: Verdicts, good: bool) -> Tuner:
        """Tune the adapter on those of some texts that have this verdict."""
        self.tuner.tune(self._where(among & (self.verdicts == good)), lambda *_: self.watch())
        return self.tuner

    def held_out(self, seed: int) -> list[float]:
        """Of each text A − R, nats a token, by adapters that were not tuned on it."""
        part = np.array(folds(self.verdicts, seed))
        scores = np.zeros(len(part))
        for number in range(part.max() + 1):
            out = part == number
            for good, sign in ((True, 1), (False, -1)):
                tuned = self.tune(~out, good)
                scores[out] += sign * np.array(self._log_probs(tuned, out))
        return [float(score) for score in scores]

    def _log_probs(self, tuned: Tuner, of: Verdicts) -> list[float]:
        found = []
        for value in tuned.log_probs(self._where(of)):
            self.watch()
            found.append(value)
        return found

    def _where(self, chosen: Verdicts) -> list[str]:
        return [text for text, is_chosen in zip(self.texts, chosen, strict=True) if is_chosen]
