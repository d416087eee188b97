"""Documents become question–answer pairs; what cannot be paired is reported, not guessed."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from seektune.data.documents.headings import headed
from seektune.data.documents.html import lay_out_html
from seektune.data.documents.labels import labelled
from seektune.data.documents.lines import Layout, lay_out
from seektune.data.documents.marks import marks_of
from seektune.data.documents.numbered import numbered
from seektune.data.documents.spans import Found, Range
from seektune.data.documents.tables import tabled
from seektune.data.records import Record
from seektune.errors import DataError

KINDS = ("text", "markdown", "html")


@dataclass(frozen=True, slots=True)
class Leftover:
    """What of a document is in no pair: lines of questions without answer and of answers without question.

    `characters` counts the document's text outside all pairs, without spaces, of `total`.
    """

    file: str
    unanswered: tuple[int, ...]
    unasked: tuple[int, ...]
    characters: int
    total: int

    def to_json(self) -> dict[str, Any]:
        """For a report."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Extraction:
    """The pairs of one document, in order, and what is left over."""

    pairs: tuple[Record, ...]
    leftover: Leftover


def extract(record: Record) -> Iterator[Record]:
    """The pairs of a document record; see `extraction`."""
    yield from extraction(record).pairs


def extraction(record: Record) -> Extraction:
    """Pairs of a document with the fields `text` and `kind` (text, markdown or html), and the rest.

    Each pair has `question`, `answer` and `span`, the [start, end) of `text` that holds both; its line is the
    question's, so pairs of one line share a row_id. Both are verbatim, HTML's as a reader sees it. Raises
    DataError when `text` is no text or `kind` is unknown.
    """
    text, kind = record.fields.get("text"), record.fields.get("kind", "text")
    if not isinstance(text, str):
        raise DataError(f"{record.row_id}: a document's `text` must be text, is {type(text).__name__}")
    if kind not in KINDS:
        raise DataError(f"{record.row_id}: a document of kind {kind!r}; known: {', '.join(KINDS)}")
    layout = lay_out_html(text) if kind == "html" else lay_out(text, markdown=kind == "markdown")
    pairs, rest = _chosen(layout, markdown=kind != "text")
    breaks = [found.start() for found in re.finditer("\n", text)]

    def line(at: int) -> int:
        return record.line + bisect_left(breaks, layout.span(at, at + 1)[0])

    records = []
    for question, answer, start, end in pairs:
        fields = {
            "question": layout.text[slice(*question)],
            "answer": layout.text[slice(*answer)],
            "span": list(layout.span(start, end)),
        }
        records.append(Record(record.file, line(question[0]), fields))
    unanswered = tuple(sorted({line(one.start) for one in rest if one.question}))
    unasked = tuple(sorted({line(one.start) for one in rest if not one.question}))
    total = _size(layout.text)
    inside = sum(_size(layout.text[start:end]) for _, _, start, end in pairs)
    return Extraction(tuple(records), Leftover(record.file, unanswered, unasked, total - inside, total))


_Pair = tuple[Range, Range, int, int]  # question, answer, and the span that holds both


def _chosen(layout: Layout, markdown: bool) -> tuple[list[_Pair], list[Found]]:
    """The pairs in order, and what is found outside them; one that overlaps a surer kind of pair is none."""
    marks = marks_of(layout)
    pairs: list[_Pair] = []
    rest: list[Found] = []
    ways = (tabled(layout), labelled(layout, marks), headed(layout, marks), numbered(layout, marks, markdown))
    for one in chain.from_iterable(ways):
        if one.question and one.answer:
            pair = (one.question, one.answer, one.start, max(one.question[1], one.answer[1]))
            at = bisect_left(pairs, pair[2], key=lambda other: other[3] - 1)
            if at == len(pairs) or pairs[at][2] >= pair[3]:
                pairs.insert(at, pair)
                continue
        rest.append(one)
    return pairs, [one for one in rest if not _inside(one.start, pairs)]


def _inside(at: int, pairs: Sequence[_Pair]) -> bool:
    index = bisect_left(pairs, at, key=lambda pair: pair[3] - 1)
    return index < len(pairs) and pairs[index][2] <= at


def _size(text: str) -> int:
    """Characters that are not spaces."""
    return sum(map(len, text.split()))
