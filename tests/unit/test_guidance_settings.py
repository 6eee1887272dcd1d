"""Guidance and Sampling: defaults, and every field that is out of range is named."""

import math
import subprocess
import sys

import pytest

from factory.guidance import Guidance, Sampling


def test_defaults() -> None:
    assert Guidance() == Guidance(rule="steer", gamma=0, eta=0.5, alpha=0, nucleus=0.95)
    assert Guidance(rule="paper").mass == 1.0
    assert Guidance(rule="paper", nucleus=0.9).mass == 0.9
    assert Guidance(rule="contrastive").mass == 1.0
    assert Sampling() == Sampling(
        temperature=1, top_k=0, top_p=1, min_p=0, typical_p=1, max_new_tokens=80
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rule", "other"),
        ("rule", None),
        ("gamma", 11),
        ("gamma", -10.5),
        ("gamma", math.nan),
        ("gamma", "1"),
        ("eta", -0.1),
        ("eta", math.inf),
        ("eta", True),
        ("alpha", 1.5),
        ("alpha", -1),
        ("nucleus", 0),
        ("nucleus", 1.01),
        ("nucleus", math.nan),
    ],
)
def test_guidance_names_the_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field} "):
        Guidance(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_k", 1.5),
        ("top_k", True),
        ("top_p", 0),
        ("top_p", 1.1),
        ("min_p", -0.5),
        ("min_p", 2),
        ("typical_p", 0),
        ("typical_p", 1.5),
        ("max_new_tokens", 0),
        ("max_new_tokens", 2.0),
    ],
)
def test_sampling_names_the_field(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field} "):
        Sampling(**{field: value})


def test_what_a_stream_is_needed_for() -> None:
    assert (Guidance(gamma=0).uses_base, Guidance(gamma=-0.1).uses_base) == (False, True)
    assert (Guidance(eta=0).uses_negative, Guidance(eta=0.1).uses_negative) == (False, True)


def test_settings_load_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; import factory.guidance, factory.errors; "
        "extra = {m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names); "
        "print(sorted(extra - {'factory', '__main__', 'sitecustomize'}))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
