"""Rejected answers made from the rows themselves; one that could be right is refused and counted."""

from __future__ import annotations

import random
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from seektune.config.data import NegativesConfig
from seektune.data.duplicates.comparison import OPTION
from seektune.data.duplicates.normal import normalised
from seektune.data.negatives.answers import Said, alike, final, said, same
from seektune.data.negatives.corruption import corruptions
from seektune.types import Example, Pair

BLOCK = 2048
"""Rows among which other answers are looked for; bounds memory, and the time of mining per row."""

TRIES = 8
"""Other rows looked at for one negative."""

TOO_ALIKE = 0.6
"""Cosine from which another question is the same question in other words, and its answer right too."""

MOST_GOLDS = 64
"""Answers to the same question that are looked at."""

SLICE = 256
"""Rows compared with their block at a time."""

EXAMPLES = 3
"""Negatives of each kind that are kept to be shown."""

_EVERYTHING = re.compile(
    r"\b(?:all|any|each) of (?:the|these|them)\b|\ball (?:the )?above\b|\bboth\b"
    r"|以上.{0,4}(?:均|都|全|皆)|(?:均|都|全|皆)(?:是|对|正确)"
)
_TERM = re.compile(r"[a-z0-9]+|(?=([\u3400-\u9fff]{2}))")


@dataclass(slots=True)
class Counts:
    """What became of the candidates: made and refused by kind, rows without any, the first few of a kind."""

    made: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    without: int = 0
    examples: list[dict[str, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The `negatives` section of the report."""
        kinds = sorted({*self.made, *self.refused})
        table = {kind: {"made": self.made[kind], "refused": self.refused[kind]} for kind in kinds}
        return {**table, "examples": self.examples}

    def add(self, kind: str, how: str, pair: Pair) -> None:
        """Counts a negative that was made; `how` says from what."""
        self.made[kind] += 1
        if self.made[kind] <= EXAMPLES and pair.chosen and pair.rejected:
            texts = {
                "question": pair.prompt[-1].content,
                "chosen": pair.chosen.content,
                "rejected": pair.rejected.content,
            }
            self.examples.append({"kind": kind, "how": how, "row": pair.row_id, **texts})


def negatives(
    rows: Sequence[Example], config: NegativesConfig, seed: int, counts: Counts | None = None
) -> Iterator[Pair]:
    """Up to `config.per_row` pairs for each row, in order; the same for the same rows, config and seed.

    The kinds take turns from row to row, and one that a row does not allow leaves its place to the next:
    `options` needs options, `corrupted` open text; `in_batch` and `mined` take answers of the same block of
    rows, closed for closed. `rows` is read twice; beside one block, memory holds 16 bytes a row.
    """
    counts = Counts() if counts is None else counts
    golds = _Golds(rows)
    for start in range(0, len(rows), BLOCK):
        block = _Block([rows[index] for index in range(start, min(start + BLOCK, len(rows)))])
        for place, row in enumerate(block.rows):
            made = 0
            if _answered(row):
                right = golds.of(start + place, row)
                generator = random.Random(f"{seed} {start + place}")
                for pair in _pairs(block, place, right, config, generator, counts):
                    made += 1
                    yield pair
            counts.without += made == 0


def _answered(row: Example) -> bool:
    """Whether a row has a question and an answer in words, which plain text and tool calls have not."""
    last = row.messages[-1]
    asked = any(turn.role == "user" for turn in row.prompt)
    return asked and last.role == "assistant" and not last.tool_calls and bool(final(last.content))


class _Golds:
    """The right answers of a row's question, its own first; questions are told apart by their hash."""

    def __init__(self, rows: Sequence[Example]) -> None:
        self._rows = rows
        self._keys = np.fromiter((hash((_stem(row), row.images)) for row in rows), np.int64, len(rows))
        self._order = np.argsort(self._keys, kind="stable")

    def of(self, index: int, row: Example) -> list[Said]:
        """What is known to be right for row `index`; of a question asked very often the first 64 answers."""
        texts = [row.messages[-1].content]
        if row.answer is not None:
            texts.append(row.options[row.answer])
        key = self._keys[index]
        first = int(np.searchsorted(self._keys, key, sorter=self._order))
        for other in self._order[first : first + MOST_GOLDS].tolist():
            if self._keys[other] != key:
                break
            if other != index and (last := self._rows[other].messages[-1]).role == "assistant":
                texts.append(last.content)
        return [said(text) for text in dict.fromkeys(texts)]


@dataclass
class _Block:
    """Rows whose answers may serve each other."""

    rows: list[Example]

    @cached_property
    def near(self) -> list[list[int]]:
        """For each row those with the nearest questions, nearest first, without questions nearly the same."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(analyzer=_terms, sublinear_tf=True, dtype=np.float32)
        vectors = vectorizer.fit_transform([_stem(row) for row in self.rows])
        closed = np.array([bool(row.options) for row in self.rows])
        near: list[list[int]] = []
        for start in range(0, len(self.rows), SLICE):
            alike = (vectors[start : start + SLICE] @ vectors.T).toarray()
            alike[(alike > TOO_ALIKE) | (closed[start : start + SLICE, None] != closed)] = 0.0
            best = np.argsort(-alike, axis=1, kind="stable")[:, :TRIES]
            kept = np.take_along_axis(alike, best, 1) > 0
            near += [row[keep].tolist() for row, keep in zip(best, kept, strict=True)]
        return near


def _stem(row: Example) -> str:
    """The question of a row, normalised, without the options that are listed in it."""
    asked = next((turn.content for turn in reversed(row.prompt) if turn.role == "user"), "")
    listed = OPTION.search(asked) if row.options else None
    return normalised(asked[: listed.start()] if listed else asked)


def _terms(text: str) -> list[str]:
    """Words and pairs of Chinese characters; never nothing."""
    return [found[0] or found[1] for found in _TERM.finditer(text)] or [text]


def _pairs(
    block: _Block,
    place: int,
    right: list[Said],
    config: NegativesConfig,
    generator: random.Random,
    counts: Counts,
) -> Iterator[Pair]:
    row, chosen = block.rows[place], block.rows[place].messages[-1]
    turn = generator.randrange(len(config.kinds))
    kinds = config.kinds[turn:] + config.kinds[:turn]
    queue = deque((kind, _candidates(kind, block, place, generator)) for kind in kinds)
    made: set[str] = set()
    while queue and len(made) < config.per_row:
        kind, candidates = queue.popleft()
        for text, how in candidates:
            if text in made:
                continue
            if _may_be_right(kind, text, right):
                counts.refused[kind] += 1
                continue
            made.add(text)
            rejected = replace(chosen, content=text)
            pair = Pair(row.prompt, chosen, rejected, row.row_id, row.tools, row.images)
            counts.add(kind, how, pair)
            yield pair
            queue.append((kind, candidates))
            break


def _may_be_right(kind: str, text: str, right: list[Said]) -> bool:
    saying = said(text)
    if kind == "corrupted":  # alike by intent
        return not saying.normal or any(same(saying, gold) for gold in right)
    covered = kind == "options" and any(_EVERYTHING.search(gold.normal) for gold in right)
    return covered or not saying.normal or any(alike(saying, gold) for gold in right)


def _candidates(kind: str, block: _Block, place: int, generator: random.Random) -> Iterator[tuple[str, str]]:
    """(text, from what) of one kind for one row."""
    row = block.rows[place]
    if kind == "options" and row.answer is not None:
        wrong = [index for index in range(len(row.options)) if index != row.answer]
        yield from ((row.options[index], "option") for index in generator.sample(wrong, len(wrong)))
    elif kind == "in_batch":
        yield from _answers(block, row, (generator.randrange(len(block.rows)) for _ in range(TRIES)), place)
    elif kind == "mined":
        yield from _answers(block, row, block.near[place], place)
    elif kind == "corrupted" and not row.options:
        foreign = block.rows[generator.randrange(len(block.rows))]
        strange = "" if foreign.options or _stem(foreign) == _stem(row) else foreign.messages[-1].content
        yield from ((text, name) for name, text in corruptions(row.messages[-1].content, strange, generator))


def _answers(block: _Block, row: Example, others: Iterable[int], place: int) -> Iterator[tuple[str, str]]:
    """The answers of other rows, closed for closed and open for open; none that shows an image of its own."""
    for index in others:
        other = block.rows[index]
        last = other.messages[-1]
        alike_in_form = bool(other.options) == bool(row.options) and "<image>" not in last.content
        if index != place and last.role == "assistant" and alike_in_form:
            yield last.content, other.row_id
