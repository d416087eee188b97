"""JSON objects of callers → values: types as JSON has them, and no field that is passed over unsaid."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seektune.serving.refusal import Refusal, shown

T = TypeVar("T")
B = TypeVar("B", bound="Body")

# One wrong item is reason enough: a body of a megabyte would have hundreds of thousands, seconds of the loop.
Items = Annotated[list[T], Field(fail_fast=True)]

MAX_ITEMS = 4096
"""Messages of one conversation, and parts of one message."""

_BRANCH = re.compile(r"str|list\[.*\]")  # what pydantic adds to a place for each type that a field may have


class Body(BaseModel):
    """A JSON object: types as JSON has them, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())

    nested: ClassVar[Mapping[str, type[Body]]] = {}  # what the objects of a field are
    neutral: ClassVar[Mapping[str, tuple[Any, ...]]] = {}  # unsupported, but for these values and null
    ignored: ClassVar[frozenset[str]] = frozenset()  # they change no answer


def read(body: type[B], tree: Any) -> B:
    """`tree` as `body`. Raises Refusal naming a field that is wrong, unknown or unsupported."""
    try:
        return body.model_validate(_admitted(body, tree, ""))
    except ValidationError as error:
        place, said = _told(error.errors(include_input=False, include_url=False))
        raise Refusal(f"{place}: {said}", param=place) from None


def shown_key(part: object) -> str:
    """A key or index as it is said back to a caller."""
    text = str(part)
    return text if len(text) <= 64 else text[:63] + "…"


def _admitted(body: type[Body], tree: Any, place: str) -> dict[str, Any]:
    """The fields that are to be validated: known, not null, nothing unsupported asked for."""
    if not isinstance(tree, dict):
        where = place.rstrip(".") or "the body"
        raise Refusal(f"{where} must be a JSON object", param=place.rstrip(".") or None)
    kept: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{place}{shown_key(key)}"
        if key in body.model_fields:
            if value is not None:
                inner = body.nested.get(key)
                kept[key] = value if inner is None else _deeper(inner, value, name)
        elif key in body.neutral:
            if value is not None and value not in body.neutral[key]:
                raise Refusal(
                    f"{name} is not supported (got {shown(value)})", param=name, code="unsupported_field"
                )
        elif key not in body.ignored:
            raise Refusal(f"{name} is unknown{_hint(key, body)}", param=name, code="unknown_field")
    return kept


def _deeper(body: type[Body], value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return _admitted(body, value, f"{name}.")
    if not isinstance(value, list):
        return value
    if len(value) > MAX_ITEMS:
        raise Refusal(f"{name} has {len(value):,} entries: at most {MAX_ITEMS:,} are taken", param=name)
    return [_admitted(body, item, f"{name}.{index}.") for index, item in enumerate(value)]


def _told(problems: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Where and why; of a field that may have several types, as the one says that got furthest."""

    def reached(problem: Mapping[str, Any]) -> tuple[int, list[int]]:
        return len(problem["loc"]), [part for part in problem["loc"] if isinstance(part, int)]

    def place(problem: Mapping[str, Any]) -> str:
        return ".".join(shown_key(part) for part in problem["loc"] if not _BRANCH.fullmatch(str(part)))

    where = place(max(problems, key=reached))
    first, *others = (problem["msg"] for problem in problems if place(problem) == where)
    wanted = dict.fromkeys(other.removeprefix("Input should be ") for other in others)
    return where, " or ".join([first, *wanted])


def _hint(key: str, body: type[Body]) -> str:
    near: Sequence[str] = difflib.get_close_matches(key[:64], body.model_fields, n=1)
    return f"; did you mean {near[0]}?" if near else ""
