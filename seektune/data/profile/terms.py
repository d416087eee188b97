"""The words and runs of characters that tell two sets of texts apart."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import log

MAX_CHARS = 200_000  # of a side
TERMS = 10
SURE = 4.0  # standard deviations between a term's shares
LONGEST, OFTEN = 12, 8  # characters of a run; texts that hold it

# Scripts that write words together: their terms are runs of characters.
TOGETHER = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
RUN = re.compile(f"[{TOGETHER}]+")
WORD = re.compile(rf"[^\W\d_{TOGETHER}]{{2,}}(?:['’-][^\W\d_{TOGETHER}]+)*")
MARK = re.compile(r"^[ \t]*([A1][.)．）、:：])", re.MULTILINE)  # of the first option or numbered line


@dataclass(frozen=True, slots=True)
class Term:
    """A word or run of characters with the share of texts that hold it, as fractions."""

    text: str
    train: float
    target: float


def typical(train: Sequence[str], target: Sequence[str]) -> tuple[tuple[Term, ...], tuple[Term, ...]]:
    """The terms whose shares of texts differ most: typical of training, and typical of the target.

    At most ten of each, beyond four standard deviations, among the first 200,000 characters of a side.
    """
    first, second = _capped(train), _capped(target)
    counts = _runs((first, second))
    for side, held in zip((first, second), counts, strict=True):
        held.update(word for text in side for word in _words(text))
    found: list[tuple[float, Term]] = []
    for text in counts[0].keys() | counts[1].keys():
        ones, others = counts[0][text], counts[1][text]
        both = (ones + others) / (len(first) + len(second))
        spread = (both * (1 - both) * (1 / len(first) + 1 / len(second))) ** 0.5
        share, other = ones / len(first), others / len(second)
        fragment = len(text) == 2 and "的" in text  # “of” and half a word
        if abs(other - share) > SURE * spread and not fragment:
            # The term's part of the divergence between the sides: a word of one beats a common one of both.
            odds = log((others + 0.5) / len(second)) - log((ones + 0.5) / len(first))
            found.append(((other - share) * odds, Term(text, round(share, 4), round(other, 4))))
    # The longer of equal runs says more; the text itself makes the order the same every time.
    found.sort(key=lambda pair: (-pair[0], -len(pair[1].text), pair[1].text))
    terms = [term for _, term in found]
    of_train = _apart(term for term in terms if term.train > term.target)
    of_target = _apart(term for term in terms if term.train < term.target)
    return tuple(of_train), tuple(of_target)


def _words(text: str) -> set[str]:
    return {word.lower() for word in WORD.findall(text)} | set(MARK.findall(text))


def _runs(sides: Sequence[Sequence[str]]) -> list[Counter[str]]:
    """How many texts of each side hold a run of characters; rare runs are left out.

    Level by level: a run can only be frequent where it is without its first and without its last character.
    """
    found: list[Counter[str]] = [Counter() for _ in sides]
    frequent: set[str] = set()
    for size in range(2, LONGEST + 1):
        level = [Counter(run for text in side for run in _windows(text, size, frequent)) for side in sides]
        frequent = {run for run, count in sum(level, Counter[str]()).items() if count >= OFTEN}
        for counts, new in zip(found, level, strict=True):
            counts.update({run: count for run, count in new.items() if run in frequent})
        if not frequent:
            break
    return found


def _windows(text: str, size: int, frequent: set[str]) -> set[str]:
    return {
        run[at : at + size]
        for run in RUN.findall(text)
        for at in range(len(run) - size + 1)
        if size == 2 or (run[at : at + size - 1] in frequent and run[at + 1 : at + size] in frequent)
    }


def _apart(terms: Iterable[Term]) -> Iterator[Term]:
    """The first terms, without the overlapping windows of a run already named."""
    named: set[str] = set()
    left = TERMS
    for term in terms:
        pairs = (
            {term.text[at : at + 2] for at in range(len(term.text) - 1)} if RUN.match(term.text) else set()
        )
        if left and not pairs & named:
            named |= pairs
            left -= 1
            yield term


def _capped(texts: Sequence[str]) -> list[str]:
    within = sum(end <= MAX_CHARS for end in accumulate(map(len, texts)))
    return list(texts[: max(within, 1)])
