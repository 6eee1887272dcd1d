"""What real texts reach under an expert that knows some of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.metrics.fit import LOW, floor

LOG_PROBS = st.lists(st.floats(-9, 0), min_size=1, max_size=60)


@given(LOG_PROBS, st.data(), st.floats(0, 3))
def test_what_was_gained_by_training_on_a_text_does_not_raise_the_floor(
    fresh: list[float], data: st.DataObject, gap: float
) -> None:
    seen = data.draw(st.lists(st.booleans(), min_size=len(fresh), max_size=len(fresh)))
    memorised = np.array(fresh) + gap * np.array(seen)
    assert floor(memorised, seen, gap) == pytest.approx(float(np.percentile(fresh, LOW)))


def test_a_gap_below_nothing_is_chance_and_changes_nothing() -> None:
    log_probs = np.linspace(-2, -1, 21)
    assert floor(log_probs, [True] * 21, -0.4) == pytest.approx(-1.95)
    assert floor(log_probs, [True] * 21, 0.0) == pytest.approx(-1.95)
