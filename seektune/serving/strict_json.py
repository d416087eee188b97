"""JSON as RFC 8259 has it, nothing that Python adds and nothing that two readers could read differently."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from seektune.serving.refusal import Refusal, shown

MAX_DEPTH = 32
_MAX_DIGITS = 20  # of an integer: 64 bits


def parse(body: bytes) -> Any:
    """The value that `body` holds.

    Raises Refusal for anything but UTF-8 JSON, and for depth, duplicate keys, NaN, numbers beyond 64 bits
    and half characters.
    """
    try:
        text = body.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except UnicodeDecodeError as error:
        raise Refusal(f"the body is not UTF-8: byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise Refusal(
            f"the body is not JSON: {error.msg}, line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise Refusal(f"the body is nested deeper than {MAX_DEPTH}") from None
    _check(value)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Refusal(f"the key {shown(key)} appears twice in one object")
        found[key] = value
    return found


def _no_constant(name: str) -> NoReturn:
    raise Refusal(f"the body is not JSON: {name} is no number of JSON's")


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise Refusal(f"a number of {len(text)} digits: at most 64 bits are read")
    return int(text)


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Refusal(f"the number {shown(text)} is beyond 64 bits")
    return value


def _check(value: Any) -> None:
    """Depth and strings, without recursion."""
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise Refusal(f"the body is nested deeper than {MAX_DEPTH}")
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _whole(item)
            elif isinstance(item, dict):
                deeper += [*item, *item.values()]
            elif isinstance(item, list):
                deeper += item
        level, depth = deeper, depth + 1


def _whole(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Refusal("a string holds half a character (a lone surrogate)") from None
