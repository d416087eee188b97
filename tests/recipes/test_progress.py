"""Training and answering as they happen, in a terminal and piped."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from seektune.recipes.progress import count, track
from seektune.types import StepMetrics


def steps(count: int, evaluated: tuple[int, ...] = ()) -> list[StepMetrics]:
    return [
        StepMetrics(
            step=step,
            epoch=step / count,
            loss=2.0 / step,
            learning_rate=1e-3,
            grad_norm=1.0,
            tokens=500,
            seconds=2.0,
            eval_loss=0.25 if step in evaluated else None,
        )
        for step in range(1, count + 1)
    ]


def piped(made: list[StepMetrics], total: int, logging_steps: int = 10) -> list[str]:
    page = io.StringIO()
    seen = list(track(made, total, console=Console(file=page, width=120), logging_steps=logging_steps))
    assert seen == made
    return page.getvalue().splitlines()


def test_piped_there_is_one_plain_line_for_the_first_every_tenth_and_the_last_step() -> None:
    lines = piped(steps(25), 25)
    assert [line.split("/")[0] for line in lines] == ["step  1", "step 10", "step 20", "step 25"]
    assert lines[0] == "step  1/25  loss 2.0000  250 tokens/s  ETA 0:48"


def test_a_step_that_was_evaluated_always_has_its_line() -> None:
    lines = piped(steps(9, evaluated=(4,)), 9)
    assert [line.split("/")[0] for line in lines] == ["step 1", "step 4", "step 9"]
    assert lines[1].endswith("eval loss 0.2500")


def test_hours_are_written_out() -> None:
    assert piped(steps(1), 4000)[0].endswith("ETA 2:13:18")


def test_speed_and_time_left_are_means_over_the_run() -> None:
    slow, fast = steps(2)
    slow = StepMetrics(**{**{f: getattr(slow, f) for f in StepMetrics.__slots__}, "seconds": 8.0})
    assert "100 tokens/s  ETA 0:10" in piped([slow, fast], 4, logging_steps=2)[-1]


def test_in_a_terminal_a_bar_shows_loss_speed_and_time_left() -> None:
    page = io.StringIO()
    console = Console(file=page, width=120, force_terminal=True, color_system=None)
    assert len(list(track(steps(3), 3, console=console, logging_steps=1))) == 3
    assert "3/3" in page.getvalue()
    assert "loss 0.6667" in page.getvalue()
    assert "250 tokens/s" in page.getvalue()


def test_a_run_that_dies_leaves_the_terminal_usable() -> None:
    def dying():
        yield from steps(1)
        raise RuntimeError("no more power")

    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    with pytest.raises(RuntimeError, match="no more power"):
        list(track(dying(), 3, console=console, logging_steps=1))
    assert not console._live_stack  # the bar was taken down


@pytest.mark.parametrize(("seconds", "lines"), [(0.0, 3), (60.0, 0)])
def test_piped_a_count_is_told_now_and_then(seconds: float, lines: int) -> None:
    page = io.StringIO()
    counted = count("abc", 1234, console=Console(file=page), what="answered", seconds=seconds)
    assert list(counted) == ["a", "b", "c"]
    assert page.getvalue().splitlines() == [f"answered {n}/1,234" for n in range(1, lines + 1)]


def test_in_a_terminal_a_count_is_a_bar() -> None:
    page = io.StringIO()
    assert list(count("abc", 3, console=Console(file=page, force_terminal=True), what="answered")) == [*"abc"]
    assert "3/3" in page.getvalue()
