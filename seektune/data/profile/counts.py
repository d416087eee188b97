"""What is in the data, counted row by row in bounded memory."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Hashable, Iterable
from operator import itemgetter
from typing import Any

from seektune.data.cleaning.language import language
from seektune.types import Example, Message, Row

EDGES = tuple(sorted({round(2 ** (half / 2)) for half in range(61)}))
"""Lower edges of the histograms' bins, two to an octave: 1 2 3 4 6 8 11 16 …"""
MAX_SAMPLE = 2000  # rows kept for languages and for the comparison with a target
MAX_SAMPLE_CHARS = 2000
MAX_TURNS = 20  # conversations with more are counted together
MAX_LABEL_CHARS = 200
TOP = 10
LABEL_SET_ROWS = 10  # options seen on fewer rows are a question's own, not a set of labels
SURE, NOTABLE = 4.0, 1.2  # standard deviations and times chance before a place is called favoured


class Commonest:
    """Counts of the commonest keys, of at most `capacity`.

    While `exact`, counts are true; once rare keys had to be forgotten they are lower bounds.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self.counts: Counter[Any] = Counter()
        self.exact = True
        self._capacity = capacity

    def add(self, key: Hashable) -> None:
        """Count one more of `key`."""
        counts = self.counts
        counts[key] += 1
        if len(counts) > self._capacity:
            commonest = sorted(counts.items(), key=itemgetter(1), reverse=True)  # so many: faster than a heap
            self.counts = Counter(dict(commonest[: self._capacity // 2]))
            self.exact = False

    def top(self, size: int = TOP) -> list[dict[str, Any]]:
        """`{"text", "count"}` of the commonest keys that were seen more than once."""
        commonest = self.counts.most_common(size)
        return [{"text": key, "count": count} for key, count in commonest if count > 1]


class Profile:
    """What `add` has seen; memory does not grow with the rows.

    `sample` is a uniform sample of at most 2,000 rows as (row_id, prompt, answer), texts cut at 2,000
    characters; it depends on `seed` and on the order of the rows alone.
    """

    def __init__(self, seed: int = 0) -> None:
        self.rows = 0
        self.sample: list[tuple[str, str, str]] = []
        self._random = random.Random(seed)
        self._counts: Counter[str] = Counter()  # "kind …", "role …", "with …"
        self._turns = [0] * (MAX_TURNS + 1)
        self._histograms = {name: [0] * (len(EDGES) - 1) for name in ("characters", "tokens")}
        self._totals = {"characters": 0, "tokens": 0, "trained": 0}
        self._answers_of_options = Commonest()  # (options, answer)
        self._places: Counter[tuple[int, int]] = Counter()  # (number of options, place of the right one)
        self._openings = Commonest()
        self._answers = Commonest()

    def add(self, row: Row, tokens: int, trained: int = 0) -> None:
        """Count one row of `tokens` tokens, `trained` of them with a loss."""
        self.rows += 1
        messages = _messages(row)
        self._count_shape(row, messages)
        self._count_size("characters", sum([len(message.content) for message in messages]))
        self._count_size("tokens", tokens)
        self._totals["trained"] += trained
        question, answer = _opening(messages), _answer(row)
        if question:
            self._openings.add(_start_of(question))
        if answer:
            self._answers.add(_without_reasoning(answer)[:MAX_LABEL_CHARS])
        if isinstance(row, Example) and row.answer is not None:
            self._places[len(row.options), row.answer] += 1
            self._answers_of_options.add((row.options, row.answer))
        self._keep(row, answer)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain data; shares are fractions, histograms have one more edge than counts."""
        labels = self._label_sets()
        return {
            "rows": self.rows,
            "kinds": self._named("kind "),
            "roles": self._named("role "),
            "with": self._named("with "),
            "turns": {_at_most(turns, MAX_TURNS): n for turns, n in enumerate(self._turns) if n},
            "labels": [_balance(options, counts) for options, counts in labels.items()],
            "positions": self._positions(labels),
            "languages": self._languages(),
            "characters": self._size("characters"),
            "tokens": self._size("tokens") | self._trained(),
            "openings": self._openings.top(),
            "answers": self._answers.top(),
            "exact": self._openings.exact and self._answers.exact and self._answers_of_options.exact,
        }

    def _count_shape(self, row: Row, messages: tuple[Message, ...]) -> None:
        counts = self._counts
        counts[_kind(row)] += 1
        turns = 0
        for message in messages:
            counts["role " + message.role] += 1
            turns += message.role == "user"
        self._turns[min(turns, MAX_TURNS)] += 1
        if messages and messages[0].role == "system":
            counts["with system prompt"] += 1
        if row.images:
            counts["with images"] += 1
        if row.tools:
            counts["with tools"] += 1
        if any("<think>" in message.content for message in messages if message.role == "assistant"):
            counts["with reasoning"] += 1

    def _count_size(self, name: str, size: int) -> None:
        self._totals[name] += size
        # The outermost bins take what lies beyond them.
        self._histograms[name][min(max(bisect_right(EDGES, size) - 1, 0), len(EDGES) - 2)] += 1

    def _keep(self, row: Row, answer: str) -> None:
        # Reservoir sampling: row n takes the place of an earlier one with probability 2000/n.
        place = self.rows - 1 if self.rows <= MAX_SAMPLE else int(self._random.random() * self.rows)
        if place < MAX_SAMPLE:
            kept = (row.row_id, prompt_text(row)[:MAX_SAMPLE_CHARS], answer[:MAX_SAMPLE_CHARS])
            self.sample[place : place + 1] = [kept]

    def _named(self, prefix: str) -> dict[str, int]:
        found = [(key.removeprefix(prefix), n) for key, n in self._counts.items() if key.startswith(prefix)]
        return dict(sorted(found, key=lambda pair: -pair[1]))

    def _label_sets(self) -> dict[tuple[str, ...], dict[int, int]]:
        sets: dict[tuple[str, ...], dict[int, int]] = {}
        for (options, answer), count in self._answers_of_options.counts.items():
            sets.setdefault(options, {})[answer] = count
        asked = self._places.total()
        return {options: counts for options, counts in sets.items() if _is_label_set(counts, asked)}

    def _positions(self, labels: dict[tuple[str, ...], dict[int, int]]) -> list[dict[str, Any]]:
        # Where rows share their options the place is the label, and says nothing about the order of options.
        places = Counter(self._places)
        for options, counts in labels.items():
            for answer, count in counts.items():
                places[len(options), answer] -= count
        sizes = sorted({size for (size, _), count in places.items() if count})
        return [_bias([places[size, place] for place in range(size)]) for size in sizes]

    def _languages(self) -> dict[str, float]:
        found = Counter(language(f"{prompt}\n{answer}") for _, prompt, answer in self.sample)
        return {name: count / found.total() for name, count in found.most_common()}

    def _size(self, name: str) -> dict[str, Any]:
        counts = self._histograms[name]
        used = [place for place, count in enumerate(counts) if count]
        total = self._totals[name]
        if not used:
            return {"total": 0, "mean": 0.0, "histogram": {"edges": [], "counts": []}}
        first, last = used[0], used[-1]
        histogram = {"edges": list(EDGES[first : last + 2]), "counts": counts[first : last + 1]}
        return {"total": total, "mean": total / self.rows, "histogram": histogram}

    def _trained(self) -> dict[str, Any]:
        trained = self._totals["trained"]
        return {"trained": trained, "trained_share": trained / max(self._totals["tokens"], 1)}


def prompt_text(row: Row) -> str:
    """What is asked: the user turns, one after another, without listed options; of a plain text, the text."""
    asked = "\n".join([message.content for message in row.prompt if message.role == "user"])
    if isinstance(row, Example) and row.options:
        asked = asked.partition(f"\n{row.options[0]}")[0]
    return asked or _answer(row)


def _messages(row: Row) -> tuple[Message, ...]:
    if isinstance(row, Example):
        return row.messages
    return (*row.prompt, *(side for side in (row.chosen, row.rejected) if side))


def _kind(row: Row) -> str:
    if isinstance(row, Example):
        return "kind closed question" if row.options else "kind conversation"
    return "kind preference pair" if row.chosen and row.rejected else "kind judged answer"


def _answer(row: Row) -> str:
    if isinstance(row, Example):
        last = row.messages[-1]
        return last.content if last.role == "assistant" else ""
    side = row.chosen or row.rejected
    return side.content if side else ""


def _opening(messages: Iterable[Message]) -> str:
    return next((message.content for message in messages if message.role == "user"), "")


def _start_of(text: str) -> str:
    """The first four words, or the first eight characters where words are not written apart."""
    start = " ".join(text[:60].split()[:4])
    return start if start.isascii() else start[:8]


def _without_reasoning(answer: str) -> str:
    return answer.rpartition("</think>")[2].strip() if "</think>" in answer else answer


def _at_most(number: int, most: int) -> str:
    return str(number) if number < most else f"{most} or more"


def _is_label_set(counts: dict[int, int], asked: int) -> bool:
    rows = sum(counts.values())
    # A single question repeated has one answer; a classification with one answer is most of its data.
    return rows >= LABEL_SET_ROWS and (len(counts) > 1 or 2 * rows > asked)


def _balance(options: tuple[str, ...], counts: dict[int, int]) -> dict[str, Any]:
    """Rows of each label, the commonest's share, and the commonest over the rarest (None: one is missing)."""
    rows = {option: counts.get(place, 0) for place, option in enumerate(options)}
    most, least = max(rows.values()), min(rows.values())
    ordered = dict(sorted(rows.items(), key=lambda pair: -pair[1]))
    share = most / sum(rows.values())
    return {"counts": ordered, "commonest_share": share, "imbalance": most / least if least else None}


def _bias(counts: list[int]) -> dict[str, Any]:
    """How often each place held the right answer, and whether one is favoured well beyond chance."""
    expected = sum(counts) / len(counts)
    spread = (expected * (1 - 1 / len(counts))) ** 0.5
    favoured = max(counts) > max(expected + SURE * spread, NOTABLE * expected)
    return {"options": len(counts), "counts": counts, "favoured": favoured}
