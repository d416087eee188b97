"""The report: one HTML file that needs nothing else, for one run or several side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from seektune.reports.plots import accuracy_bars, loss_curve
from seektune.reports.summary import Summary, summarise
from seektune.runlog import write_text

CHECKS = {
    "table": "Every asked-for module carries an adapter, and no other",
    "gradients": "First backward: every adapter that took part has a finite, non-zero gradient",
    "first_update": "First update: exactly the adapters moved",
    "router_unchanged": "Router unchanged, weights and buffers, by sha256",
    "frozen_unchanged": "Every other frozen tensor unchanged, bit for bit",
}
"""What each yes-or-no check of the inventory means."""


def write_report(folder: Path | str, runs: Sequence[Path] = (), *, verdicts: Sequence[str] = ()) -> Path:
    """Write `folder`/report.html about the run in `folder`, or about `runs`; returns its path.

    `verdicts` are the plain sentences of each run's evaluation, in order.
    """
    summaries = [summarise(run) for run in runs or [Path(folder)]]
    path = Path(folder) / "report.html"
    write_text(path, render(summaries, verdicts))
    return path


def render(summaries: Sequence[Summary], verdicts: Sequence[str] = ()) -> str:
    """The page as text; everything from the runs is escaped."""
    spoken = [*verdicts, *[""] * (len(summaries) - len(verdicts))]
    return page(
        "report.html.jinja",
        runs=list(zip(summaries, spoken, strict=True)),
        checks=CHECKS,
        accuracy_bars=accuracy_bars,
        loss_curve=loss_curve,
    )


def page(template: str, **values: Any) -> str:
    """A template of this folder filled with `values`, which are escaped; a name it lacks is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(values)
