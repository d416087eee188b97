"""Training and answering as they happen: a bar in a terminal, plain lines when piped."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from seektune.training.finding import Finding
from seektune.types import StepMetrics

T = TypeVar("T")


def track(
    steps: Iterable[StepMetrics], total: int, *, console: Console, logging_steps: int
) -> Generator[StepMetrics, None, None]:
    """Yield every step and show it: loss, tokens per second, time left.

    In a terminal one bar moves; elsewhere a line appears for the first step, every `logging_steps`-th, the
    last, and every one that was evaluated. What health found is printed in full.
    """
    seen = _measured(_told(steps, console), total)
    if console.is_terminal:
        return _bar(seen, total, console)
    return _lines(seen, total, console, logging_steps)


def count(
    items: Iterable[T], total: int, *, console: Console, what: str, seconds: float = 10.0
) -> Iterator[T]:
    """Yield every item and show how many there were: a bar in a terminal, elsewhere a line now and then."""
    if console.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as progress:
            yield from progress.track(items, total=total)
        return
    shown = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - shown >= seconds:
            shown = time.monotonic()
            console.print(f"{what} {number:,}/{total:,}", highlight=False)


def is_shown(metrics: StepMetrics, total: int, logging_steps: int) -> bool:
    """Where not all steps appear: the first, each `logging_steps`-th, the last, evaluated, troubled do."""
    due = metrics.step in (1, total) or metrics.step % logging_steps == 0
    return due or metrics.eval_loss is not None or bool(metrics.findings)


def describe(metrics: StepMetrics, tokens_per_second: float, seconds_left: float) -> str:
    """One step in words."""
    evaluated = "" if metrics.eval_loss is None else f"  eval loss {metrics.eval_loss:.4f}"
    speed = f"{tokens_per_second:,.0f} tokens/s"
    return f"loss {metrics.loss:.4f}  {speed}  ETA {_clock(seconds_left)}{evaluated}"


def _told(steps: Iterable[StepMetrics], console: Console) -> Iterator[StepMetrics]:
    """Each step, after its findings were printed."""
    for metrics in steps:
        for finding in metrics.findings:
            console.print(str(Finding.from_json(finding)), markup=False, highlight=False, soft_wrap=True)
        yield metrics


def _measured(steps: Iterable[StepMetrics], total: int) -> Iterator[tuple[StepMetrics, str]]:
    """Each step with its description; speed and time left are means over the run so far."""
    tokens, seconds = 0, 0.0
    for count, metrics in enumerate(steps, start=1):
        tokens, seconds = tokens + metrics.tokens, seconds + metrics.seconds
        left = seconds / count * (total - metrics.step)
        yield metrics, describe(metrics, tokens / max(seconds, 1e-9), left)


def _bar(
    steps: Iterable[tuple[StepMetrics, str]], total: int, console: Console
) -> Generator[StepMetrics, None, None]:
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[now]}"))
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=total, now="first step …")
        for metrics, now in steps:
            progress.update(task, completed=metrics.step, now=now)
            yield metrics


def _lines(
    steps: Iterable[tuple[StepMetrics, str]], total: int, console: Console, logging_steps: int
) -> Generator[StepMetrics, None, None]:
    for metrics, now in steps:
        if is_shown(metrics, total, logging_steps):
            console.print(f"step {metrics.step:>{len(str(total))}}/{total}  {now}", highlight=False)
        yield metrics


def _clock(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
