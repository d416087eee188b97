"""Records become examples: `messages`, multiple-choice `qa` and `classification`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from types import MappingProxyType
from typing import Any

from seektune.data.sources import Record, read_jsonl
from seektune.errors import DataError
from seektune.types import Example, Message

FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "messages": ("messages",),
        "qa": ("question", "options", "answer_idx"),
        "classification": ("text", "label"),
    }
)
"""The fields each format needs; a record may have others, which are not read."""

ROLES = ("system", "user", "assistant")
QA_INSTRUCTION = "Answer with the letter and the text of the correct option."


def read_records(
    paths: Path | str | Sequence[Path | str],
    *,
    format: str = "auto",
    prompt_prefix: str = "",
    labels: Sequence[str] | None = None,
) -> list[Example]:
    """Read JSONL files into examples, in order.

    `format` is detected from each file's first record unless named. `prompt_prefix` opens every user turn.
    `labels` are the candidate answers of a classification, in order; without them they are each record's
    own `options`, or else the labels that occur in these files, sorted. Raises DataError naming file:line
    for a record that does not fit, and for files without any record.
    """
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    named = [(format_of(records[0], format), records) for records in map(_records, files)]
    found = labels or _labels(
        record for name, records in named if name == "classification" for record in records
    )
    convert: dict[str, Callable[[Record], Example]] = {
        "messages": lambda record: _messages(record, prompt_prefix),
        "qa": lambda record: _question(record, prompt_prefix),
        "classification": lambda record: _classified(record, prompt_prefix, found),
    }
    return [convert[name](record) for name, records in named for record in records]


def format_of(record: Record, format: str = "auto") -> str:
    """The name of the record's format; DataError tells what was seen and which format is nearest."""
    if format != "auto" and format not in FIELDS:
        raise DataError(f"unknown data format {format!r}; known: auto, {', '.join(FIELDS)}")
    candidates = FIELDS if format == "auto" else {format: FIELDS[format]}
    for name, needed in candidates.items():
        if all(key in record.fields for key in needed):
            return name
    seen = ", ".join(record.fields) or "no fields at all"
    name = max(candidates, key=lambda name: _nearness(record.fields, candidates[name]))
    missing = ", ".join(key for key in FIELDS[name] if key not in record.fields)
    kind = "the nearest format is" if format == "auto" else "the format is"
    raise DataError(f"{record.row_id} has the fields {seen}; {kind} {name}, which also needs {missing}")


def _records(path: Path | str) -> list[Record]:
    records = list(read_jsonl(path))
    if not records:
        raise DataError(f"{path} holds no records: expected one JSON object a line")
    return records


def _nearness(fields: Iterable[str], needed: Sequence[str]) -> float:
    """Share of the needed fields that are there, a near miss counting in part."""
    best = [
        max((difflib.SequenceMatcher(None, key, seen).ratio() for seen in fields), default=0.0)
        for key in needed
    ]
    return sum(best) / len(best)


def _messages(record: Record, prefix: str) -> Example:
    turns = _field(record, "messages")
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{record.row_id}: `messages` must be a list of {{role, content}} objects")
    messages = tuple(_message(record, index, turn, prefix) for index, turn in enumerate(turns))
    roles = [message.role for message in messages]
    if roles[-1] != "assistant" or "user" not in roles:
        raise DataError(
            f"{record.row_id}: needs a user turn and an assistant turn last, has {', '.join(roles)}"
        )
    return Example(messages, record.row_id)


def _message(record: Record, index: int, turn: Any, prefix: str) -> Message:
    place = f"{record.row_id}: message {index}"
    if not isinstance(turn, dict):
        raise DataError(f"{place} is not an object with `role` and `content`")
    unread = sorted(
        key for key, value in turn.items() if key not in ("role", "content") and value is not None
    )
    if unread:
        raise DataError(
            f"{place} has {', '.join(unread)}, which would be ignored; only role and content are read"
        )
    role, content = turn.get("role"), turn.get("content")
    if role not in ROLES:
        raise DataError(f"{place} has the role {role!r}; known roles: {', '.join(ROLES)}")
    if not isinstance(content, str) or not content.strip():
        raise DataError(f"{place} ({role}) must have text as `content`, has {_shown(content)}")
    return Message(role, prefix + content if role == "user" else content)


def _question(record: Record, prefix: str) -> Example:
    options = _options(record)
    letter = _field(record, "answer_idx")
    if not isinstance(letter, str) or letter not in options:
        raise DataError(
            f"{record.row_id}: answer_idx is {_shown(letter)}, but the options are {', '.join(options)}"
        )
    answers = tuple(f"{key}. {text}" for key, text in options.items())
    answer = list(options).index(letter)
    question = "\n".join([prefix + _text(record, "question"), *answers, QA_INSTRUCTION])
    return _closed(record, question, answers, answer)


def _options(record: Record) -> dict[str, str]:
    """Option texts by letter; a list is lettered A, B, C."""
    options = _field(record, "options")
    if isinstance(options, list):
        options = dict(zip(ascii_uppercase, options, strict=False)) if len(options) <= 26 else None
    if not isinstance(options, dict) or len(options) < 2:
        raise DataError(f"{record.row_id}: `options` must be an object or a list of 2 to 26 options")
    return {key: _plain(record, f"option {key}", value) for key, value in options.items()}


def _classified(record: Record, prefix: str, labels: Sequence[str]) -> Example:
    own = record.fields.get("options")
    if own is not None and (not isinstance(own, list) or len(own) < 2):
        raise DataError(f"{record.row_id}: `options` of a classification must be a list of labels")
    names = tuple(_plain(record, "a label in options", value) for value in own) if own else tuple(labels)
    label = _label(record)
    if label not in names:
        near = difflib.get_close_matches(label, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise DataError(f"{record.row_id}: the label {label!r} is not among {', '.join(names)}{hint}")
    return _closed(record, prefix + _text(record, "text"), names, names.index(label))


def _labels(records: Iterable[Record]) -> tuple[str, ...]:
    return tuple(sorted({_label(record) for record in records}))


def _label(record: Record) -> str:
    return _plain(record, "`label`", _field(record, "label"))


def _closed(record: Record, question: str, options: tuple[str, ...], answer: int) -> Example:
    if len(set(options)) < len(options):
        raise DataError(f"{record.row_id}: an option occurs twice among {', '.join(options)}")
    messages = (Message("user", question), Message("assistant", options[answer]))
    return Example(messages, record.row_id, options, answer)


def _field(record: Record, key: str) -> Any:
    if key not in record.fields:
        raise DataError(f"{record.row_id}: `{key}` is missing; the record has {', '.join(record.fields)}")
    return record.fields[key]


def _text(record: Record, key: str) -> str:
    value = _field(record, key)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{record.row_id}: `{key}` must be text, is {_shown(value)}")
    return value


def _plain(record: Record, what: str, value: Any) -> str:
    """A short text; a number becomes its digits."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise DataError(f"{record.row_id}: {what} must be text or a number, is {_shown(value)}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
