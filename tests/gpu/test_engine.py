"""The engine on a real card: graphs, bf16, memory that runs out, children, several cards."""

import gc
import math
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from factory.guidance import Guidance, Sampling
from tests.unit.decoding.test_decoder import mixed_requests
from tests.unit.decoding.test_graphs import shared_requests
from workers.decoding import Completion, ModelPair, Request, SteerDecoder
from workers.memory import MARGIN, plan

from .conftest import Pairs

Folders = Callable[[str], Path]
GUIDANCE = Guidance(gamma=0.2, eta=0.5)


def decode(
    pair: ModelPair, wanted: list[Request], slots: int = 7, new: int = 20
) -> dict[int, Completion]:
    decoder = SteerDecoder(pair, GUIDANCE, Sampling(max_new_tokens=new), slots, trace=True)
    return {c.index: c for c in decoder.run(wanted)}


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "gemma2", "gemma3"])
def test_recorded_steps_give_the_tokens_of_plain_ones(family: str, kind: str, pairs: Pairs) -> None:
    graphed, eager = pairs(family, kind), pairs(family, kind, graphs=False)
    assert graphed.recorder is not None
    assert eager.recorder is None
    for wanted in (mixed_requests(16), shared_requests()):
        plain = decode(eager, wanted)
        for _ in range(2):  # the second run replays what the first one recorded
            ours = decode(graphed, wanted)
            assert {i: c.token_ids for i, c in ours.items()} == {
                i: c.token_ids for i, c in plain.items()
            }


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_card_gives_the_tokens_of_the_cpu(kind: str, pairs: Pairs, folders: Folders) -> None:
    """Float32 on both: tokens differ only where two scores tie to within rounding."""
    wanted = mixed_requests(16)
    ours = decode(pairs("llama", kind), wanted)
    theirs = decode(ModelPair.load(folders("llama") / "base", folders("llama") / kind), wanted)
    same = sum(ours[i].token_ids == c.token_ids for i, c in theirs.items())
    assert same >= 15


def test_the_same_run_gives_the_same_bits(pairs: Pairs) -> None:
    """Replay on the same card: with the same slots and requests, every number of the trace."""
    pair, wanted = pairs("llama", "lora", "bfloat16"), shared_requests()
    decode(pair, wanted)

    def bits() -> list[tuple[int, bytes]]:
        return [(i, c.trace.to_bytes()) for i, c in decode(pair, wanted).items() if c.trace]

    first = bits()
    assert len(first) == len(wanted)
    assert bits() == first


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_bf16_weights_say_about_what_float32_says(kind: str, pairs: Pairs) -> None:
    wanted = [Request((5, 6, 7), (8, 9, 10, 11), seed=i) for i in range(8)]
    exact = decode(pairs("llama", kind), wanted, new=1)
    for i, completion in decode(pairs("llama", kind, "bfloat16"), wanted, new=1).items():
        ours, theirs = completion.trace, exact[i].trace
        assert ours is not None
        assert theirs is not None
        if ours.tokens.tolist() == theirs.tokens.tolist():
            assert ours.expert == pytest.approx(theirs.expert, abs=0.25)


def test_full_memory_is_told_and_half_the_slots_go_on(
    middling: ModelPair, cuda: torch.device
) -> None:
    """The card is filled but for what a quarter of the slots need: a run with all of them ends
    with OutOfMemoryError, and nothing of it stays behind."""
    wanted = [Request((5,) * 8, (6 + i,) * 2000, seed=i) for i in range(64)]
    contexts = {"expert": (8, 64), "base": (8, 64), "negative": (2000, 1)}
    sampling = Sampling(max_new_tokens=64)
    planned = plan(middling, GUIDANCE, sampling, contexts)
    room = math.ceil(planned.bytes(16) / (1 - MARGIN)) + 1
    assert planned.slots(room, 64) == 16
    gc.collect()
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(cuda)[0]
    assert free > room
    ballast = torch.empty(free - room, dtype=torch.uint8, device=cuda)
    slots, tried = 64, []
    made: dict[int, Completion] = {}
    while len(made) < len(wanted):
        tried.append(slots)
        left = [i for i in range(len(wanted)) if i not in made]
        try:
            decoder = SteerDecoder(middling, GUIDANCE, sampling, slots)
            for done in decoder.run([wanted[i] for i in left]):
                made[left[done.index]] = done
        except torch.OutOfMemoryError:
            slots //= 2
        middling.idle.clear()
        gc.collect()
        torch.cuda.empty_cache()
    del ballast
    assert tried[0] == 64
    assert 16 <= tried[-1] < 64
    assert sorted(made) == list(range(64))


def test_memory_that_is_planned_covers_what_is_taken(
    middling: ModelPair, cuda: torch.device
) -> None:
    wanted = [Request((5,) * 8, (6 + i,) * 500, seed=i) for i in range(32)]
    contexts = {"expert": (8, 32), "base": (8, 32), "negative": (500, 1)}
    sampling = Sampling(max_new_tokens=64)
    planned = plan(middling, GUIDANCE, sampling, contexts)
    middling.idle.clear()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(cuda)
    before = torch.cuda.memory_allocated(cuda)
    list(SteerDecoder(middling, GUIDANCE, sampling, 32).run(wanted))
    taken = torch.cuda.max_memory_allocated(cuda) - before
    assert planned.bytes(32) / 5 < taken <= planned.bytes(32)


def _child(folder: Path, answer: "multiprocessing.Queue[object]") -> None:
    pair = ModelPair.load(folder / "base", folder / "lora", "cuda:0")
    answer.put([c.token_ids for c in decode(pair, mixed_requests(6)).values()])


def test_a_spawned_child_uses_the_card(pairs: Pairs, folders: Folders) -> None:
    """As a worker's child does, while its parent uses the card, too."""
    ours = [c.token_ids for c in decode(pairs("llama", "lora"), mixed_requests(6)).values()]
    spawn = multiprocessing.get_context("spawn")
    answer = spawn.Queue()
    child = spawn.Process(target=_child, args=(folders("llama"), answer))
    child.start()
    assert answer.get(timeout=180) == ours
    child.join(timeout=60)
    assert child.exitcode == 0


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_model_spread_over_the_cards(kind: str, pairs: Pairs, folders: Folders) -> None:
    """device_map over all cards there are; steps are recorded only where that is one."""
    folder = folders("llama")
    spread = ModelPair.load(folder / "base", folder / kind, "auto")
    cards = {weight.device for weight in spread.expert.parameters()}
    assert all(card.type == "cuda" for card in cards)
    assert (spread.recorder is not None) == (len(cards) == 1)
    wanted = mixed_requests(8)
    ours = {i: c.token_ids for i, c in decode(spread, wanted).items()}
    assert ours == {i: c.token_ids for i, c in decode(pairs("llama", kind), wanted).items()}
