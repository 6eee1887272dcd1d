"""The circuit's rule: who may call when, whatever happens in whatever order."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from factory import circuits
from factory.circuits import LONGEST, PROBE_SECONDS, THRESHOLD, Turn, note_failure, note_success
from factory.errors import HeldBack
from factory.tables import Circuit

START = datetime(2026, 1, 1, tzinfo=UTC)
FIRST = 5.0


class Callers(RuleBasedStateMachine):
    """Any number of callers of one service, their calls ending in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.circuit = Circuit(name="it", failures=0)
        self.now = START
        self.at_work: list[Turn] = []
        self.asked_until = START  # what the service asked for
        self.probed_at: datetime | None = None

    @rule(seconds=st.floats(0, 200))
    def time_passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def someone_asks(self) -> None:
        open_before = self.circuit.retry_at
        try:
            turn = circuits.take_turn(self.circuit, self.now)
        except HeldBack:
            assert open_before is not None
            assert open_before > self.now
            return
        assert self.now >= self.asked_until
        if turn.is_probe:
            apart = timedelta(seconds=PROBE_SECONDS)
            assert self.probed_at is None or self.now - self.probed_at >= apart
            self.probed_at = self.now
        self.at_work.append(turn)

    @rule(data=st.data(), retry_after=st.sampled_from([0.0, 0.0, 0.0, 30.0]))
    def a_call_fails(self, data: st.DataObject, retry_after: float) -> None:
        if not self.at_work:
            return
        turn = self._one(data)
        note_failure(self.circuit, turn, self.now, "503", FIRST, retry_after)
        self._note_end(turn)
        if retry_after:
            self.asked_until = max(self.asked_until, self.now + timedelta(seconds=retry_after))
            assert self.circuit.retry_at is not None
            assert self.circuit.retry_at >= self.now + timedelta(seconds=retry_after)
        assert self.circuit.error == "503"

    @rule(data=st.data())
    def a_call_succeeds(self, data: st.DataObject) -> None:
        if not self.at_work:
            return
        turn = self._one(data)
        was_open = self.circuit.retry_at is not None
        closed = note_success(self.circuit, turn, self.now)
        self._note_end(turn)
        assert closed == (was_open and turn.is_probe)
        if closed:
            self.asked_until = self.now  # the probe was after what it asked for
        if turn.is_probe:
            assert self.circuit.retry_at is None

    def _one(self, data: st.DataObject) -> Turn:
        return self.at_work.pop(data.draw(st.integers(0, len(self.at_work) - 1)))

    def _note_end(self, turn: Turn) -> None:
        if turn.is_probe:
            self.probed_at = None

    @invariant()
    def it_is_closed_or_says_since_when_and_why(self) -> None:
        known = (self.circuit.since, self.circuit.error)
        assert all(known) if self.circuit.failures else not any(known)

    @invariant()
    def it_opens_after_enough_failures_and_not_for_ever(self) -> None:
        if self.circuit.failures >= THRESHOLD:
            assert self.circuit.retry_at is not None
        if self.circuit.retry_at is not None:
            longest = timedelta(seconds=max(PROBE_SECONDS, LONGEST * FIRST, 30))
            assert self.circuit.retry_at <= self.now + longest


TestCallers = Callers.TestCase


@given(st.integers(0, 10_000))
def test_a_pause_grows_to_a_bound_and_half_of_it_is_chance(failures: int) -> None:
    whole = FIRST * min(2.0 ** min(max(0, failures - THRESHOLD), 20), LONGEST)
    assert whole / 2 <= circuits.pause(failures, FIRST) <= whole


def test_it_says_until_when_and_why() -> None:
    circuit = Circuit(name="Label Studio", failures=0)
    for _ in range(THRESHOLD):
        note_failure(circuit, Turn(), START, "connection refused", FIRST)
    with pytest.raises(HeldBack, match=r"Label Studio is left alone until 2026.*refused"):
        circuits.take_turn(circuit, START)


def test_one_failure_holds_nobody_back_and_a_success_forgets_it() -> None:
    circuit = Circuit(name="it", failures=0)
    note_failure(circuit, Turn(), START, "500", FIRST)
    turn = circuits.take_turn(circuit, START)
    assert not turn.is_probe
    assert not note_success(circuit, turn, START)
    assert circuit.failures == 0


def test_a_probe_that_fails_does_not_shorten_what_another_call_was_asked_for() -> None:
    circuit = Circuit(name="it", failures=0)
    for _ in range(THRESHOLD):
        note_failure(circuit, Turn(), START, "503", FIRST)
    later = START + timedelta(seconds=60)
    probe = circuits.take_turn(circuit, later)
    note_failure(circuit, Turn(), later, "429", FIRST, retry_after=30.0)
    note_failure(circuit, probe, later, "503", FIRST)
    with pytest.raises(HeldBack):
        circuits.take_turn(circuit, later + timedelta(seconds=29))
    assert circuits.take_turn(circuit, later + timedelta(seconds=30)).is_probe
