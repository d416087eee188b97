"""JSON that two readers could understand differently is refused, the rest is read as it is."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.serving.refusal import Refusal
from seektune.serving.strict_json import MAX_DEPTH, parse

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NUMBER = st.integers(-(10**18), 10**18) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_json_is_read_as_the_library_reads_it(value):
    text = json.dumps(value)
    assert parse(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"), (b"{", "not JSON"), (b"{'a': 1}", "not JSON"), (b"{} {}", "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"), (b"\xff\xfe{\x00", "not UTF-8"), (b'"\xc3"', "not UTF-8"),
        (b"NaN", "NaN"), (b"[Infinity]", "Infinity"), (b"-Infinity", "Infinity"), (b"1e999", "64 bits"),
        (b"-1e400", "64 bits"), (b"9" * 5000, "5000 digits"), (b'{"a": 1, "a": 1}', "'a' appears twice"),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', "'b' appears twice"),
        (b'{"a": 1, "\\u0061": 2}', "'a' appears twice"),
        (b'"\\ud800"', "half a character"), (b'{"\\udfff": 1}', "half a character"), (b"01", "not JSON"),
    ],
)  # fmt: skip
def test_what_is_no_plain_json_is_refused_with_its_reason(body: bytes, reason: str):
    with pytest.raises(Refusal, match=reason):
        parse(body)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 10_000, 150_000])
def test_depth_is_refused_whatever_it_is(opening: bytes, depth: int):
    closing = b"]" if opening == b"[" else b"}"
    with pytest.raises(Refusal, match="nested deeper"):
        parse(opening * depth + b"0" + closing * depth)


def test_the_depth_allowed_is_read():
    assert parse(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)


def test_many_keys_cost_no_more_than_their_number():
    def seconds(count: int) -> float:
        body = json.dumps(dict.fromkeys(map(str, range(count)), 0))
        body = body[:-1] + f', "{count - 1}": 0}}'
        began = time.process_time()
        with pytest.raises(Refusal, match="twice"):
            parse(body.encode())
        return time.process_time() - began

    few = min(seconds(2_000) for _ in range(3))
    assert seconds(40_000) < 20 * 15 * few  # quadratic would be 400
