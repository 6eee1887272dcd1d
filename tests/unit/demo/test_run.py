"""The demo's plan, and what it says of a loop that does not come round."""

import json
from pathlib import Path
from typing import Any

import pytest

from factory.cli.app import run
from factory.errors import FactoryError
from factory.local.demo.run import CONTROL, FIRST, SECOND, Made, check, spec
from factory.spec import GenerateSpec, is_audit, job_spec

ROUNDS = (FIRST, CONTROL, SECOND)


def built(each: Any) -> GenerateSpec:
    found = job_spec.validate_python(spec(each, "hypotheses"))
    assert isinstance(found, GenerateSpec)
    return found


def sample(state: str, *, audit: bool = False) -> dict[str, Any]:
    return {"text": "a text", "state": state, "audit": audit}


@pytest.mark.parametrize("each", ROUNDS)
def test_every_round_is_a_valid_job_that_is_pushed_later(each: Any) -> None:
    assert not built(each).review.push


def test_control_differs_from_round_2_in_eta_alone() -> None:
    control, second = built(CONTROL), built(SECOND)
    assert (control.guidance.eta, second.guidance.eta) == (0.0, 0.5)
    same = {"guidance": second.guidance}
    assert control.model_copy(update=same) == second


def test_round_2_is_as_the_design_has_it() -> None:
    second = built(SECOND)
    negatives = second.negatives
    assert (negatives.count, negatives.strategy, negatives.center) == (3, "random", False)
    assert negatives.sources == {"rejected": 1}
    assert (second.guidance.nucleus, second.audit) == (0.95, 0.2)
    assert sum(not is_audit(second.audit, ordinal) for ordinal in range(second.count)) >= 300


def test_the_first_round_has_no_feedback_and_no_audit() -> None:
    first = built(FIRST)
    assert (first.guidance.eta, first.audit) == (0.0, 0.0)


def test_only_round_2_has_feedback() -> None:
    assert [each.feedback for each in ROUNDS] == [False, False, True]


def test_counts_and_texts_tell_audit_from_guided() -> None:
    samples = [sample("accepted"), sample("rejected", audit=True), sample("in_review")]
    made = Made(SECOND, 4, samples)
    counts = made.counts
    assert (counts.planned, counts.stored, counts.pushed, counts.reviewed) == (4, 3, 3, 2)
    assert (len(made.guided), len(made.audit)) == (2, 1)


def test_a_whole_loop_is_well() -> None:
    check([Made(SECOND, 2, [sample("accepted"), sample("rejected")])])


@pytest.mark.parametrize("state", ["generated", "filtered", "in_review"])
def test_a_sample_that_was_left_behind_is_told(state: str) -> None:
    made = Made(CONTROL, 2, [sample("accepted"), sample(state)])
    with pytest.raises(FactoryError, match="control"):
        check([made])


def test_a_running_stack_without_review_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import http.server
    import threading

    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = ("token", "database_url", "broker_url")
    review = ("url", "token", "username", "password")
    addresses = dict.fromkeys((*names, *(f"label_studio_{name}" for name in review)), "")
    addresses["url"] = f"http://127.0.0.1:{server.server_port}"
    (tmp_path / "stack.json").write_text(json.dumps({"addresses": addresses}))
    monkeypatch.setenv("FACTORY_HOME", str(tmp_path))
    try:
        assert run(["demo"]) == 1
    finally:
        server.shutdown()
        server.server_close()
    assert "no Label Studio" in capsys.readouterr().err
