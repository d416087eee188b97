from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from seektune.errors import ConfigError
from seektune.generation.request import Request, Sampling


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", True),
        ("max_tokens", 1.5),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", "1"),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", 1.5),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -3),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e300),
        ("seed", 2**64),
        ("seed", 1.0),
        ("stop", "word"),
        ("stop", ("",)),
        ("logprobs", 21),
        ("ignore_eos", 1),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^{name} is .*: it must be "):
        Sampling(**{name: value})


def test_ends_of_the_ranges_are_allowed() -> None:
    Sampling(max_tokens=1, temperature=0, top_k=0, top_p=1, min_p=1, presence_penalty=-2, seed=-(2**63))
    Sampling(repetition_penalty=0.1, frequency_penalty=2, logprobs=20, stop=("a", "b"), seed=2**64 - 1)


def test_requests_do_not_change() -> None:
    request = Request(id="1", prompt=(1, 2))
    assert request.sampling.temperature == 0
    with pytest.raises(FrozenInstanceError):
        request.adapter = "other"  # type: ignore[misc]
