"""What is asked of the engine and what comes back; plain values, checked once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from seektune.errors import ConfigError

FinishReason = Literal["stop", "length", "cancelled", "error"]

MAX_LOGPROBS = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How tokens are chosen, in OpenAI's and vLLM's names; greedy unless the temperature is above 0.

    Raises ConfigError naming the field, its value and its range.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None  # None: a new one for every request
    stop: tuple[str, ...] = ()
    logprobs: int | None = None  # the likeliest tokens to report beside the chosen one
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        for name, (fits, wanted) in _RANGES.items():
            if not fits(getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)!r}: it must be {wanted}")


def _integer(low: int, high: float = math.inf) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return fits


def _number(low: float, high: float = math.inf) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value) and low <= value <= high

    return fits


def _above_zero(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: fits(value) and value > 0


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _strings(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(item, str) and item for item in value)


_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "max_tokens": (_integer(1), "an integer of 1 or more"),
    "temperature": (_number(0), "0 (greedy) or above, and finite"),
    "top_k": (_integer(0), "0 (all tokens) or an integer above"),
    "top_p": (_above_zero(_number(0, 1)), "above 0 and at most 1"),
    "min_p": (_number(0, 1), "from 0 to 1"),
    "presence_penalty": (_number(-2, 2), "from -2 to 2"),
    "frequency_penalty": (_number(-2, 2), "from -2 to 2"),
    "repetition_penalty": (_number(0.01, 100), "from 0.01 to 100"),
    "seed": (_or_none(_integer(-(2**63), 2**64 - 1)), "none or a 64-bit integer"),
    "stop": (_strings, "a tuple of strings that are not empty"),
    "logprobs": (_or_none(_integer(0, MAX_LOGPROBS)), f"none or an integer from 0 to {MAX_LOGPROBS}"),
    "ignore_eos": (lambda value: type(value) is bool, "true or false"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """One prompt to continue.

    `adapter` is the key of a resident adapter, None the base. Pages of keys and values are shared only
    between requests of one `cache_key`, such as the content hash of the adapter's version; without one, the
    engine finds its own.
    """

    id: str
    prompt: tuple[int, ...]
    sampling: Sampling = Sampling()
    adapter: str | None = None
    cache_key: str = ""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of a chosen token under the model itself, and the likeliest tokens of its place."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]  # likeliest first


@dataclass(frozen=True, kw_only=True, slots=True)
class Output:
    """What a request gained in one step; the last one carries a `finish_reason`.

    The texts of a request's outputs join to its answer: no piece ends within a character, and none holds a
    stop string or what follows it. `tokens` includes the end-of-sequence token, and those of a stop string.
    """

    id: str
    tokens: tuple[int, ...] = ()  # new ones
    text: str = ""  # new
    logprobs: tuple[TokenLogprob, ...] = ()  # one per new token, where they were asked for
    finish_reason: FinishReason | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0  # so far
    cached_tokens: int = 0  # of the prompt, found in the prefix cache
    error: str | None = None
