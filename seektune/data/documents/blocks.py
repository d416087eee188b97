"""Pieces of a page put together as the lines of a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from seektune.data.documents.lines import Kind, Layout, Line

_RAISED = str.maketrans("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
_LOWERED = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")


@dataclass(slots=True)
class Block:
    """A line in the making; `apart` puts a blank line before it."""

    text: str
    kind: Kind
    place: tuple[int, int]
    level: int = 0
    apart: bool = False
    cells: tuple[str, ...] = ()


def assembled(blocks: Sequence[Block]) -> Layout:
    """The blocks as lines of one text, each with its place in the source; an end takes no room."""
    lines: list[Line] = []
    places: list[tuple[int, int]] = []
    parts: list[str] = []
    at = 0
    for block in blocks:
        if block.apart and lines and lines[-1].kind != "blank":
            lines.append(Line(at, at, "blank"))
            places.append((block.place[0], block.place[0]))
            parts.append("")
            at += 1
        if block.kind == "end":
            lines.append(Line(at, at, "end", block.level))
            places.append(block.place)
            continue
        cells, edge = [], at
        for cell in block.cells:
            edge += 2
            cells.append((edge, edge + len(cell)))
            edge += len(cell) + 1
        end = at + len(block.text)
        lines.append(Line(at, end, block.kind, block.level, (at, end), tuple(cells)))
        places.append(block.place)
        parts.append(block.text)
        at = end + 1
    return Layout("\n".join(parts), tuple(lines), tuple(places))


def shifted(data: str, tag: str) -> str:
    """Raised or lowered text: 10<sup>9</sup> must not become 109."""
    table, mark = (_RAISED, "^") if tag == "sup" else (_LOWERED, "_")
    moved = data.translate(table)
    return moved if all(a != b or a == " " for a, b in zip(data, moved, strict=True)) else mark + data
