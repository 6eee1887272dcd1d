"""JSON is taken only as far as Postgres can store it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory import strict_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=("Cs",))),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc"), inner),
)


@given(VALUES)
def test_a_storable_document_comes_back_as_it_is(value: object) -> None:
    assert strict_json.loads(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    "data", [b"", b"{", b'{"a": NaN}', b"[Infinity]", b'"\xff"', b"[" * 100_000, b"1" * 5000]
)
def test_what_is_not_json_is_refused(data: bytes) -> None:
    with pytest.raises(strict_json.NotJson):
        strict_json.loads(data)


@pytest.mark.parametrize(
    ("data", "path", "reason"),
    [
        (rb'{"a": ["x", "\u0000"]}', "a.1", "NUL"),
        (rb'{"a": {"b\u0000": 1}}', "a.a key", "NUL"),
        (rb'{"a": "\ud800"}', "a", "surrogate"),
        (b'{"a": 1e999}', "a", "finite"),
        (b"[" * 200 + b"]" * 200, "0" + ".0" * 100, "deep"),
    ],
)
def test_what_postgres_cannot_store_is_named(data: bytes, path: str, reason: str) -> None:
    with pytest.raises(strict_json.NotStorable, match=reason) as caught:
        strict_json.loads(data)
    assert caught.value.path == path
