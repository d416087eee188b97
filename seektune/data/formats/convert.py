"""Which format a record has, and what turns its records into examples and pairs."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType

from seektune.config.data import SourceConfig
from seektune.data.formats.conversations import TAGS, conversation
from seektune.data.formats.fields import Columns, Fields, listed, mapped, view
from seektune.data.formats.instructions import extracted, instruction, plain, reasoning
from seektune.data.formats.layouts import FORMATS, columns_of, unread
from seektune.data.formats.preferences import preference, rated
from seektune.data.formats.questions import DECISIONS, classified, cop_of, decision, medmcqa, question
from seektune.data.records import Record
from seektune.errors import DataError
from seektune.types import Message, Pair, Row

__all__ = ["FORMATS", "converter", "detect", "dress", "format_of", "label_of", "unread"]


LOOKS_AHEAD = ("classification", "medmcqa")
"""Formats whose records are understood only beside the others: `label_of` each is wanted first."""
NEAR_MISS = 0.8


def format_of(record: Record, format: str = "auto", columns: Mapping[str, str] = MappingProxyType({})) -> str:
    """The name of the record's format, detected unless named; `columns` maps our fields to its columns.

    DataError tells what was seen, which format is nearest and what it lacks.
    """
    if format != "auto" and format not in FORMATS:
        raise DataError(f"unknown data format {format!r}; known: auto, {', '.join(FORMATS)}")
    candidates = [format] if format != "auto" else [name for name in FORMATS if _knows(name, columns)]
    views = {name: view(record, columns_of(name, columns)) for name in candidates}
    found = next((name for name in views if _fits(name, views[name], format == name)), None)
    overlooked = _overlooked(views, found) if found and format == "auto" else None
    if found and not overlooked:
        return found
    name, need = overlooked or max(
        ((name, need) for name in views or FORMATS for need in FORMATS[name].needs),
        key=lambda pair: _nearness(record.fields, FORMATS[pair[0]].columns, pair[1]),
    )
    raise DataError(_unknown(record, name, need, columns, "the format is" if format == name else ""))


def detect(
    records: Iterable[Record], format: str = "auto", columns: Mapping[str, str] = MappingProxyType({})
) -> str:
    """The format most of the records have, so that a damaged first record misleads nobody.

    Raises the first record's DataError when none has any, and a DataError when there are no records.
    """
    votes: Counter[str] = Counter()
    refused: list[DataError] = []
    for record in records:
        try:
            votes[format_of(record, format, columns)] += 1
        except DataError as error:
            refused.append(error)
    if votes:
        return votes.most_common(1)[0][0]
    raise refused[0] if refused else DataError("there are no records to tell a format from")


def converter(source: SourceConfig, name: str, labels: Sequence[str] = ()) -> Callable[[Record], Row]:
    """What turns a record of the format `name` into an Example or Pair; it raises DataError by row_id.

    `labels` are what `label_of` gave over the records: of all classification sources together, or of this
    one MedMCQA source, whose `cop` counts from 0 or from 1. Raises DataError for columns or tags that the
    format does not have, and where nothing tells from which number `cop` counts.
    """
    columns = columns_of(name, source.columns)
    tags = _tags(name, source.tags)
    first = _first_option(tags, labels) if name == "medmcqa" else 0
    convert: dict[str, Callable[[Fields], Row]] = {
        "preference": partial(preference, tags=tags),
        "kto": partial(rated, tags=tags),
        "sharegpt": partial(conversation, tags=tags),
        "messages": partial(conversation, tags=tags),
        "medmcqa": partial(medmcqa, first=first),
        "classification": partial(classified, labels=tuple(labels)),
        "reasoning": reasoning,
        "pubmedqa": decision,
        "cmexam": question,
        "qa": question,
        "alpaca": instruction,
        "text": plain,
        "document": extracted,
    }
    understood = convert[name]
    return lambda record: understood(Fields(record.row_id, record.fields, columns))


def label_of(record: Record, source: SourceConfig, name: str = "classification") -> str:
    """A record's label for `converter`: of a classification, or MedMCQA's `cop`; DataError if it has none."""
    fields = view(record, columns_of(name, source.columns))
    if name == "medmcqa":
        return str(cop_of(fields))
    return fields.plain(f"`{fields.column('label')}`", fields.need("label"))


def dress(row: Row, prefix: str = "", system: str = "") -> Row:
    """The row with `prefix` before every user turn, opened by `system` where it has no system turn.

    Plain text, which has no user turn, stays as it is.
    """
    messages = row.prompt if isinstance(row, Pair) else row.messages
    if not (prefix or system) or not any(message.role == "user" for message in messages):
        return row
    if prefix:
        messages = tuple(
            replace(message, content=prefix + message.content) if message.role == "user" else message
            for message in messages
        )
    if system and not any(message.role == "system" for message in messages):
        messages = (Message("system", system), *messages)
    return replace(row, prompt=messages) if isinstance(row, Pair) else replace(row, messages=messages)


def _knows(name: str, columns: Mapping[str, str]) -> bool:
    return FORMATS[name].columns.keys() >= columns.keys()


def _fits(name: str, fields: Fields, named: bool) -> bool:
    """Whether the fields are there, and not by chance: a KTO label is a verdict, a decision one of three."""
    if not any(all(map(fields.has, need)) for need in FORMATS[name].needs):
        return False
    if named:
        return True
    if name == "kto":
        return isinstance(fields.get("label"), bool)
    return name != "pubmedqa" or str(fields.get("answer")).strip().lower() in DECISIONS


def _overlooked(views: Mapping[str, Fields], found: str) -> tuple[str, tuple[str, ...]] | None:
    """A stricter format the record has but for a column misspelt, which the found one would leave unread."""
    if found not in ("alpaca", "text"):
        return None
    fields = views[found]
    read = {fields.column(field) for field in fields.columns}
    spare = [column for column in fields.record if column not in read]
    for name in ("reasoning", "medmcqa", "cmexam", "qa", "classification"):
        if name in views:
            (need,) = FORMATS[name].needs
            missing = [field for field in need if not views[name].has(field)]
            near = [max(_ratios(FORMATS[name].columns[field], spare), default=0.0) for field in missing]
            if len(missing) < len(need) and min(near, default=0.0) >= NEAR_MISS:
                return name, need
    return None


def _nearness(seen: Iterable[str], columns: Columns, need: Sequence[str]) -> tuple[int, float]:
    """How many of the needed fields are there, then how near the columns come to all of them."""
    best = [max(_ratios(columns[field], tuple(seen)), default=0.0) for field in need]
    return best.count(1.0), sum(best) / len(best)


def _ratios(names: Iterable[str], seen: Sequence[str]) -> Iterator[float]:
    short = [other for other in seen if len(other) < 40]
    return (difflib.SequenceMatcher(None, name, other).ratio() for name in names for other in short)


def _unknown(record: Record, name: str, need: Sequence[str], columns: Mapping[str, str], opening: str) -> str:
    fields = view(record, mapped(FORMATS[name].columns, columns))
    missing = [field for field in need if not fields.has(field)]
    near = [(field, difflib.get_close_matches(field, list(record.fields), n=1)) for field in missing]
    hints = [f"{field}: {found[0]}" for field, found in near if found]
    seen = listed(record.fields) or "no fields at all"
    lacks = f"which also needs {', '.join(missing)}" if missing else "but not its values"
    text = f"{record.row_id} has the fields {seen}; {opening or 'the nearest format is'} {name}, {lacks}"
    return f"{text}; columns: {{{', '.join(hints)}}} would name the column" if hints else text


def _tags(name: str, tags: Mapping[str, str]) -> Mapping[str, str]:
    conversational = name in ("preference", "kto", "sharegpt", "messages")
    known = TAGS if conversational else ("first_option",) if name == "medmcqa" else ()
    for tag in tags:
        if tag not in known:
            raise DataError(f"tags: {name} has no {tag!r}; known: {', '.join(known) or 'none'}")
    return tags


def _first_option(tags: Mapping[str, str], labels: Sequence[str]) -> int:
    """The number `cop` gives to option a: 0 on the hub, 1 in the original files."""
    if "first_option" in tags:
        if tags["first_option"] not in ("0", "1"):
            raise DataError(f"tags: first_option must be 0 or 1, is {tags['first_option']!r}")
        return int(tags["first_option"])
    from_zero, from_one = bool({"-1", "0"} & set(labels)), "4" in labels  # the hub's test rows have -1
    if from_zero == from_one:
        seen = listed(sorted(set(labels))) or "none"
        raise DataError(
            f"medmcqa: `cop` counts the options from 0 on the hub and from 1 in the original files, and the "
            f'values seen ({seen}) do not tell; say which with tags: {{first_option: "0"}} or "1"'
        )
    return 0 if from_zero else 1
