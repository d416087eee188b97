"""Texts made comparable: one spelling for letters of any width or case, one space for anything between them.

Everything goes through a table of the 65,536 characters of the basic plane, built at first use; a text with a
character that becomes several, or that composes with its neighbour, takes the long way.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MEANINGFUL = frozenset("+<>=±≤≥%‰°×÷")
"""Signs that change what a medical text says."""

BETWEEN = "\x1f"
NOISE = ("Z", "P", "S", "Cc", "Cf")
ASCII_TABLE = bytes(
    ord(chr(code).lower())
    if unicodedata.category(chr(code))[0] in "LN" or chr(code) in MEANINGFUL | {BETWEEN}
    else ord(" ")
    for code in range(128)
) + bytes(range(128, 256))


def normalised(text: str) -> str:
    """The text in NFKC and folded case, every run of whitespace and punctuation one space.

    Digits and the signs of `MEANINGFUL` stay. A text of punctuation alone stays as it is, on one line.
    """
    return normalised_all([text])[0]


def normalised_all(texts: Sequence[str]) -> list[str]:
    """`normalised` of each text, at once."""
    joined = BETWEEN.join(texts)
    if joined.count(BETWEEN) != len(texts) - 1:
        joined = BETWEEN.join(text.replace(BETWEEN, " ") for text in texts)
    plain = joined.encode().translate(ASCII_TABLE).decode() if joined.isascii() else _folded(joined)
    while "  " in plain:
        plain = plain.replace("  ", " ")
    parts = plain.split(BETWEEN) if len(texts) > 1 else [plain]
    return [part.strip(" ") or " ".join(text.split()) for part, text in zip(parts, texts, strict=True)]


class _Tables(NamedTuple):
    fold: NDArray[np.uint16]  # the character's normal form; 0: not one character, or not of itself
    noise: NDArray[np.uint16]  # the character, or a space


@cache
def _tables() -> _Tables:
    noise = np.arange(0x10000, dtype=np.uint16)
    for code in range(0x10000):
        character = chr(code)
        if unicodedata.category(character).startswith(NOISE) and character not in MEANINGFUL | {BETWEEN}:
            noise[code] = ord(" ")
    fold = noise.copy()
    for code in range(0x10000):
        character = chr(code)
        normal = _normal(character)
        if unicodedata.combining(character) or 0x1160 <= code < 0x1200 or 0xD800 <= code < 0xE000:
            fold[code] = 0  # may compose with its neighbour, or is half of a character
        elif normal != character:
            units = {int(noise[ord(part)]) if ord(part) < 0x10000 else 0 for part in normal}
            fold[code] = units.pop() if len(normal) == 1 or units == {ord(" ")} else 0
    return _Tables(fold, noise)


def _normal(text: str) -> str:
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def _folded(text: str) -> str:
    """NFKC, folded case and spaces for noise."""
    tables = _tables()
    folded = tables.fold[_units(text)]
    if not folded.all():
        folded = tables.noise[_units(_normal(text))]
    return folded.tobytes().decode("utf-16-le", "surrogatepass")


def _units(text: str) -> NDArray[np.uint16]:
    return np.frombuffer(text.encode("utf-16-le", "surrogatepass"), "<u2")
