"""Scoring given texts, against the models run plainly."""

from collections.abc import Callable

import pytest
import torch

from factory.errors import PromptError
from workers.decoding import ModelPair
from workers.metrics.likelihood import Scored, text_log_probs

from .conftest import BOS, PAD
from .reference import Reference

TEXTS = [
    Scored((BOS, 5, 6), (7, 8, 9)),
    Scored((BOS, 5), (11, 12, 13, 14, 15)),
    Scored((BOS, 20, 21, 22, 23, 24, 5), (30,)),
]


@pytest.mark.parametrize(
    ("family", "kind"), [("llama", "full"), ("llama", "lora"), ("gpt2", "full")]
)
def test_scores_are_the_models_own(
    family: str,
    kind: str,
    pairs: Callable[[str, str], ModelPair],
    folders: Callable[[str], object],
) -> None:
    pair = pairs(family, kind)
    plain = Reference.load(folders(family), kind)  # type: ignore[arg-type]
    for name, model in (("expert", plain.expert), ("base", plain.base)):
        found = text_log_probs(pair, name, TEXTS)  # type: ignore[arg-type]
        for each, scores in zip(TEXTS, found, strict=True):
            ids = [*each.context, *each.text]
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0]
            logits[:, [PAD, BOS]] = -torch.inf
            rows = logits.log_softmax(-1)[len(each.context) - 1 : -1]
            want = rows.gather(1, torch.tensor(each.text)[:, None])[:, 0]
            torch.testing.assert_close(scores, want, atol=1e-4, rtol=0)


def test_what_does_not_fit_is_refused(pairs: Callable[[str, str], ModelPair]) -> None:
    with pytest.raises(PromptError, match="96 positions"):
        text_log_probs(pairs("llama", "full"), "expert", [Scored((BOS, *[5] * 90), (7,) * 9)])
