"""Several answers to one question: beside each other in a wide terminal, one below the other elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

COLUMN = 36
"""Cells of a terminal below which an answer is too narrow to be read."""


def watch(answers: Iterator[Mapping[str, str]], stopped: Sequence[object], console: Console) -> None:
    """Show the answers by name while they come, until they end or `stopped` holds something."""
    with Live(console=console, refresh_per_second=8) as live:
        for said in answers:
            live.update(page(said, console.width))
            if stopped:
                return


def plain(answers: Mapping[str, str]) -> str:
    """Each answer as it is below its name, for a pipe."""
    return "\n".join(f"== {name} ==\n{text}" for name, text in answers.items())


def page(answers: Mapping[str, str], width: int) -> RenderableType:
    """What a terminal of `width` cells shows; a wide character takes the two cells it has."""
    if width < COLUMN * len(answers):
        parts = [part for name, text in answers.items() for part in (Text(name, style="bold"), Text(text))]
        return Group(*parts)
    table = Table(expand=True, show_edge=False)
    for name in answers:
        table.add_column(Text(name), ratio=1, overflow="fold")
    table.add_row(*map(Text, answers.values()))
    return table
