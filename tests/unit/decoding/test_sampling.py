"""Drawing: filters in their order, ties, and noise that is uniform and stateless."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from factory.guidance import Sampling
from workers.decoding.sampling import Noise, draw, noise_keys
from workers.streams import MASKED

from . import reference

CPU = torch.device("cpu")


def noise(seeds: list[int], positions: list[int], vocab: int) -> torch.Tensor:
    return Noise(vocab, CPU).gumbel(noise_keys(torch.tensor(seeds), torch.tensor(positions)))


@settings(max_examples=200, deadline=None)
@given(
    scores=hnp.arrays(np.float32, 12, elements=st.floats(-8, 8, width=16)),
    masked=st.sets(st.integers(0, 11), max_size=11),
    sampling=st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
        top_k=st.integers(0, 13),
        top_p=st.floats(0.05, 1),
        min_p=st.floats(0, 1),
    ),
    seed=st.integers(0, 2**53 - 1),
    position=st.integers(0, 5000),
)
def test_draw_is_the_references(
    scores: np.ndarray, masked: set[int], sampling: Sampling, seed: int, position: int
) -> None:
    ids = sorted(masked)
    theirs = scores.astype(np.float64)
    theirs[ids] = -np.inf
    want, noisy, edge = reference.draw(theirs, sampling, seed, position)
    ours = torch.from_numpy(scores)[None].clone()
    ours[:, ids] = MASKED
    got = int(draw(ours, sampling, noise([seed], [position], 12)))
    assert got not in masked
    assert got == want or min(edge, noisy.max() - noisy[got]) < 1e-5


def test_greedy_takes_the_lower_id_of_equals() -> None:
    scores = torch.tensor([[0.0, 3.0, 3.0, 3.0]])
    assert draw(scores, Sampling(temperature=0), noise([1], [0], 4)).tolist() == [1]


@pytest.mark.parametrize("sampling", [Sampling(top_k=2), Sampling(top_p=0.4)])
def test_ties_at_a_filters_edge_keep_the_lower_id(sampling: Sampling) -> None:
    scores = torch.zeros(500, 5)
    drawn = draw(scores, sampling, noise(list(range(500)), [0] * 500, 5))
    assert set(drawn.tolist()) == {0, 1}


def test_temperature_never_lets_a_masked_token_in() -> None:
    scores = torch.full((200, 6), MASKED)
    scores[:, 2:4] = -9000.0
    for temperature in (0.01, 10.0):
        drawn = draw(
            scores, Sampling(temperature=temperature), noise([3] * 200, list(range(200)), 6)
        )
        assert set(drawn.tolist()) == {2, 3}


def test_draws_have_the_softmaxs_frequencies() -> None:
    p = np.array([0.5, 0.3, 0.15, 0.04, 0.01])
    count = 40_000
    scores = torch.from_numpy(p).log().float().expand(count, -1)
    drawn = draw(scores, Sampling(), noise(list(range(count)), [7] * count, 5))
    seen = np.bincount(drawn.numpy(), minlength=5) / count
    assert np.abs(seen - p).max() < 4 * math.sqrt(0.25 / count)


def test_noise_is_gumbel_along_every_axis() -> None:
    """Kolmogorov-Smirnov over tokens, positions and seeds, one after the other; mean γ."""
    n = 20_000
    axes = {
        "tokens": noise([11], [0], n)[0],
        "positions": noise([11] * n, list(range(n)), 1)[:, 0],
        "seeds": noise(list(range(n)), [0] * n, 1)[:, 0],
        "far seeds": noise([2**53 - 1 - 2**20 * i for i in range(n)], [3] * n, 1)[:, 0],
    }
    for name, values in axes.items():
        uniform = np.sort(np.exp(-np.exp(-values.double().numpy())))
        distance = np.abs(uniform - (np.arange(n) + 0.5) / n).max()
        assert distance < 1.95 / math.sqrt(n), name  # p = .001
        lagged = np.corrcoef(values[:-1], values[1:])[0, 1]
        assert abs(lagged) < 4 / math.sqrt(n), name


def test_noise_of_one_row_is_the_same_in_any_batch() -> None:
    seeds, positions = list(range(40)), list(range(100, 140))
    together = noise(seeds, positions, 999)
    for i in (0, 17, 39):
        assert torch.equal(together[i], noise([seeds[i]], [positions[i]], 999)[0])
    assert torch.equal(together.flip(0), noise(seeds[::-1], positions[::-1], 999))
    assert together.isfinite().all()


def test_noise_of_tokens_that_are_left_out_is_not_made() -> None:
    keys = noise_keys(torch.tensor([7, 8, 9]), torch.tensor([0, 3, 5]))
    keep = torch.rand(3, 50, generator=torch.Generator().manual_seed(1)) < 0.3
    keep[1] = False
    everything, some = (Noise(50, CPU).gumbel(keys, only) for only in (None, keep))
    assert torch.equal(some[keep], everything[keep])
    assert not some[~keep].any()


def test_noise_does_not_change_between_releases() -> None:
    """Replay relies on it: these are the first values of seed 2**53 − 1 at position 5."""
    first = noise([2**53 - 1], [5], 4)[0]
    recorded = [4.49167585, 0.51511079, 2.49192882, -1.01052022]
    assert first.tolist() == pytest.approx(recorded, abs=1e-6)
