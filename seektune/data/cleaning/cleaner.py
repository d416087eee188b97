"""Filters over rows: text filters repair, row filters drop with a reason; named as in the configuration."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from seektune.config.data import CleaningConfig
from seektune.data.cleaning import personal
from seektune.data.cleaning.filters import boilerplate, control_characters, mojibake, punctuation, whitespace
from seektune.data.cleaning.language import SAMPLE, UNDETERMINED, language
from seektune.data.cleaning.markup import html
from seektune.types import Example, Message, Pair, Row

TextFilter = Callable[[str], str]
RowFilter = Callable[[Row], str]

REPEATED_SHARE = 0.5
"""An answer is repetitive where more than this share of its runs of four words or characters came before."""

_REPETITION_UNITS = 40  # a shorter answer is never called repetitive
_UNIT = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+")
_OWN_INSTRUCTION = re.compile(r"\nAnswer with [^\n]*\Z")  # data.questions ends closed questions so
_MARKS = re.compile("<image>|</?think>")
_EXCERPT, _EXAMPLES = 30, 3


@dataclass(frozen=True, slots=True)
class Change:
    """What a text filter did to the first text of a row that it changed."""

    filter: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A row after its filters; where `row` is None, `reason` is the filter that dropped it, `detail` why."""

    row: Row | None
    changes: tuple[Change, ...] = ()
    reason: str = ""
    detail: str = ""

    @property
    def applied(self) -> tuple[str, ...]:
        """The text filters that changed something, in order."""
        return tuple(change.filter for change in self.changes)


@dataclass(slots=True)
class Tally:
    """How many rows each text filter changed, and the first three of them before and after."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[dict[str, str]]] = field(default_factory=dict)

    def add(self, row_id: str, cleaned: Cleaned) -> None:
        """Count one cleaned row."""
        for change in cleaned.changes:
            self.counts[change.filter] += 1
            shown = self.examples.setdefault(change.filter, [])
            if len(shown) < _EXAMPLES:
                before, after = excerpts(change.before, change.after)
                shown.append({"row": row_id, "before": before, "after": after})

    def to_json(self) -> dict[str, Any]:
        """`{filter: {"count", "examples": [{"row", "before", "after"}]}}`, most frequent first."""
        return {
            name: {"count": count, "examples": self.examples[name]}
            for name, count in self.counts.most_common()
        }


def cleaner(config: CleaningConfig) -> Callable[[Row], Cleaned]:
    """The function that cleans one row: text filters first, in a fixed order, then row filters.

    A text filter is skipped for a row whose options it would make equal or empty, or whose `<image>` or
    `<think>` marks it would change. A row is dropped where a text filter leaves a message empty or a chosen
    answer equal to the rejected one.
    """
    text_filters, row_filters = tuple(_text_filters(config)), tuple(_row_filters(config))

    def clean(row: Row) -> Cleaned:
        changes: list[Change] = []
        texts = _texts(row)
        for name, repair in text_filters:
            arguments = personal.mask_json if name == "pii" else _unchanged
            change = _first_change(name, row, texts, repair, arguments)
            repaired = row if change is None else _repaired(row, repair, arguments)
            if change is None or not _is_intact(row, repaired):
                continue
            changes.append(change)
            if reason := _ruin(row, repaired):
                return Cleaned(None, tuple(changes), reason, f"by {name}")
            row, texts = repaired, _texts(repaired)
        for name, fault in row_filters:
            if detail := fault(row):
                return Cleaned(None, tuple(changes), name, detail)
        return Cleaned(row, tuple(changes))

    return clean


def _text_filters(config: CleaningConfig) -> Iterator[tuple[str, TextFilter]]:
    """Those that are on. Mojibake first, for it needs the C1 controls; whitespace last, to tidy after all."""
    if config.mojibake:
        yield "mojibake", mojibake
    if config.html:
        yield "html", html
    if config.control_characters:
        yield "control_characters", control_characters
    if config.pii == "mask":
        yield "pii", personal.mask
    if config.boilerplate:
        yield "boilerplate", boilerplate
    if config.punctuation:
        yield "punctuation", punctuation
    if config.whitespace:
        yield "whitespace", whitespace


def _row_filters(config: CleaningConfig) -> Iterator[tuple[str, RowFilter]]:
    """Those that are on; the cheapest first."""
    if config.min_chars:
        yield "min_chars", partial(_too_short, least=config.min_chars)
    if config.max_chars is not None:
        yield "max_chars", partial(_too_long, most=config.max_chars)
    if config.pii != "keep":
        yield "pii", _personal  # after masking too: what a skipped filter left must not stay
    if config.languages:
        yield "language", partial(_foreign, kept=config.languages)
    if config.repetition:
        yield "repetition", _repetitive


def _unchanged(text: str) -> str:
    return text


def _messages(row: Row) -> tuple[Message, ...]:
    if isinstance(row, Example):
        return row.messages
    return (*row.prompt, *(side for side in (row.chosen, row.rejected) if side is not None))


def _options(row: Row) -> tuple[str, ...]:
    return row.options if isinstance(row, Example) else ()


def _texts(row: Row) -> list[str]:
    """All texts of a row but the arguments of calls."""
    return [*(message.content for message in _messages(row)), *_options(row)]


def _first_change(
    name: str, row: Row, texts: Sequence[str], repair: TextFilter, arguments: TextFilter
) -> Change | None:
    """What the filter does to the first text it changes: nothing, for most rows."""
    for text in texts:
        if (after := repair(text)) != text:
            return Change(name, text, after)
    if arguments is _unchanged:
        return None
    for call in (call for message in _messages(row) for call in message.tool_calls):
        if (after := arguments(call.arguments)) != call.arguments:
            return Change(name, call.arguments, after)
    return None


def _repaired(row: Row, repair: TextFilter, arguments: TextFilter) -> Row:
    def turn(message: Message) -> Message:
        calls = tuple(replace(call, arguments=arguments(call.arguments)) for call in message.tool_calls)
        return replace(message, content=repair(message.content), tool_calls=calls)

    if isinstance(row, Example):
        return replace(row, messages=tuple(map(turn, row.messages)), options=tuple(map(repair, row.options)))
    chosen, rejected = (None if side is None else turn(side) for side in (row.chosen, row.rejected))
    return replace(row, prompt=tuple(map(turn, row.prompt)), chosen=chosen, rejected=rejected)


def _is_intact(before: Row, after: Row) -> bool:
    """Whether the options still differ and the marks of images and reasoning are as they were."""
    options = _options(after)
    if options and (not all(map(str.strip, options)) or len(set(options)) < len(set(_options(before)))):
        return False
    return all(
        _MARKS.findall(old.content) == _MARKS.findall(new.content)
        for old, new in zip(_messages(before), _messages(after), strict=True)
    )


def _ruin(before: Row, after: Row) -> str:
    """Why a row is of no use after a filter, or nothing."""
    for old, new in zip(_messages(before), _messages(after), strict=True):
        if old.content.strip() and not new.content.strip() and not new.tool_calls:
            return "empty after cleaning"
    if isinstance(before, Pair) and isinstance(after, Pair) and before.chosen != before.rejected:
        return "chosen equals rejected after cleaning" if after.chosen == after.rejected else ""
    return ""


def _sizes(row: Row) -> list[int]:
    """Characters of all messages together; of a pair, with either side."""
    if isinstance(row, Example):
        return [sum(len(message.content) for message in row.messages)]
    prompt = sum(len(message.content) for message in row.prompt)
    return [prompt + len(side.content) for side in (row.chosen, row.rejected) if side is not None]


def _too_short(row: Row, least: int) -> str:
    size = min(_sizes(row))
    return f"{size} characters" if size < least else ""


def _too_long(row: Row, most: int) -> str:
    size = max(_sizes(row))
    return f"{size} characters" if size > most else ""


def _personal(row: Row) -> str:
    messages = _messages(row)
    arguments = (call.arguments for message in messages for call in message.tool_calls)
    texts = (*(message.content for message in messages), *_options(row), *arguments)
    kinds = Counter(found.kind for text in texts for found in personal.find(text))
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items())


def _foreign(row: Row, kept: tuple[str, ...]) -> str:
    """The row's language if it is none of these; a row in no language that can be told stays."""
    turns = [message.content for message in _messages(row) if message.role in ("user", "assistant")]
    share = SAMPLE // max(len(turns), 1) + 1
    code = language("\n".join(_OWN_INSTRUCTION.sub("", turn)[:share] for turn in turns))
    return "" if code in kept or code == UNDETERMINED else code


def _repetitive(row: Row) -> str:
    answers = row.messages if isinstance(row, Example) else (row.chosen,)
    for message in answers:
        if message is not None and message.role == "assistant":
            share = repeated_share(message.content)
            if share > REPEATED_SHARE:
                return f"{share:.0%} of the answer repeats"
    return ""


def repeated_share(text: str) -> float:
    """Share of the runs of four words (of Chinese and Japanese: characters) that occurred before."""
    units = _UNIT.findall(text)
    if len(units) < _REPETITION_UNITS:
        return 0.0
    runs = list(zip(units, units[1:], units[2:], units[3:], strict=False))
    return 1 - len(set(runs)) / len(runs)


def excerpts(before: str, after: str) -> tuple[str, str]:
    """Both texts around their first difference, characters that do not show written as escapes."""
    start = _common(before, after)
    end = _common(before[start:][::-1], after[start:][::-1])
    left = max(start - _EXCERPT, 0)
    return _excerpt(before, left, start, len(before) - end), _excerpt(after, left, start, len(after) - end)


def _common(one: str, other: str) -> int:
    """Length of the beginning both share."""
    differs = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differs, min(len(one), len(other)))


def _excerpt(text: str, left: int, start: int, end: int) -> str:
    right = min(end, start + 2 * _EXCERPT) + _EXCERPT
    shown = "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape", "surrogatepass").decode()
        for sign in text[left:right]
    )
    return "…" * (left > 0) + shown + "…" * (right < len(text))
