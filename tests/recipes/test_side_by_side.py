"""Answers beside each other or below each other."""

from __future__ import annotations

import io

from rich.cells import cell_len
from rich.console import Console

from seektune.recipes.side_by_side import page, plain, watch

ANSWERS = {"base": "我的眼睛在风中流泪" * 6, "medical": "[bold]Ophthalmology[/bold] :eye:"}


def shown(width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, emoji=False, highlight=False)
    console.print(page(ANSWERS, width))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_wide_terminal_has_a_column_for_each_and_wide_characters_stay_within_theirs() -> None:
    lines = shown(80)
    border = cell_len(lines[0].partition("┃")[0])
    assert lines[0].split() == ["base", "┃", "medical"]
    assert all(cell_len(line.partition("│")[0]) == border for line in lines[2:])
    assert "".join(line.partition("│")[0].strip() for line in lines[2:]) == ANSWERS["base"]
    assert ANSWERS["medical"] in lines[2]


def test_a_narrow_terminal_has_one_below_the_other() -> None:
    lines = [line.rstrip() for line in shown(60)]
    assert lines[0] == "base"
    assert lines[-2:] == ["medical", ANSWERS["medical"]]


def test_a_pipe_gets_the_answers_as_they_are() -> None:
    assert plain({"base": "a\tb ", "run": "c"}) == "== base ==\na\tb \n== run ==\nc"


def test_watching_ends_with_the_answers_or_when_it_is_stopped() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    stopped: list[int] = []

    def answers() -> object:
        for text in ("one", "one two", "one two three"):
            yield {"base": text, "run": text}
            if text == "one two":
                return

    watch(answers(), stopped, console)  # type: ignore[arg-type]
    assert "one two" in console.file.getvalue()  # type: ignore[attr-defined]
    endless = ({"base": "x", "run": "y"} for _ in iter(int, 1))
    stopped.append(2)
    watch(endless, stopped, console)
