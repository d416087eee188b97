"""When two answers may be the same one, however they are written."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

from rapidfuzz import fuzz

from seektune.data.duplicates.comparison import LETTER
from seektune.data.duplicates.normal import normalised

NEAR = 90.0
"""Similarity (0–100, of normalised texts) from which a negative may be the right answer again."""

SHORT = 40
"""Characters up to which an answer that contains the right one may be right as well."""

_DENIALS = re.compile(
    r"\b(?:no|not|never|without|none|non|cannot|neither|nor)\b|n['’]t\b|[不无非未没否]", re.I
)
_NUMBERS = re.compile(r"(?:(?<![A-Za-z0-9])[-+])?\d+(?:\.\d+)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")


def near_equal(one: str, other: str) -> bool:
    """Whether two answers may be the same one: alike in spelling, or a short one that contains the other.

    Other numbers or another count of negations make another answer, however alike the rest. Reasoning and an
    option's letter are not compared.
    """
    return alike(said(one), said(other))


@dataclass(frozen=True, slots=True)
class Said:
    """An answer as it is compared: its words, the numbers among them and how often it says no."""

    normal: str
    numbers: tuple[float, ...]
    denials: int


def said(text: str) -> Said:
    """What an answer says, without reasoning and without the letter of an option."""
    text = final(text)
    text = text[letter.end() :] if (letter := LETTER.match(text)) else text
    numbers = _NUMBERS.findall(_THOUSANDS.sub("", unicodedata.normalize("NFKC", text)).replace("−", "-"))
    return Said(normalised(text), tuple(map(float, numbers)), len(_DENIALS.findall(text)))


def final(text: str) -> str:
    """An answer without its reasoning."""
    return text.rpartition("</think>")[2].strip()


def same(one: Said, other: Said) -> bool:
    """Whether two answers differ in spaces, punctuation, case or width at most."""
    return one.numbers == other.numbers and one.normal.replace(" ", "") == other.normal.replace(" ", "")


def alike(one: Said, other: Said) -> bool:
    """`near_equal` of what was said."""
    if one.denials != other.denials:
        return False
    short, long = sorted((one, other), key=lambda said: len(said.normal))
    if len(long.normal) <= SHORT and not Counter(short.numbers) - Counter(long.numbers):
        within = re.search(rf"(?<![a-z0-9]){re.escape(short.normal)}(?![a-z0-9])", long.normal)
        if within:
            return True
    near = fuzz.ratio(short.normal, long.normal, score_cutoff=NEAR) > 0
    return short.numbers == long.numbers and (near or same(short, long))
