"""`seektune diagnose`: what is wrong with a run, from its folder and a few short runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from seektune import runlog
from seektune.config.run import RunConfig
from seektune.data.prepared import RowTable
from seektune.data.profile.counts import prompt_text
from seektune.data.profile.match import match
from seektune.diagnosis.cause import Cause, ranked
from seektune.diagnosis.curve import learning_curve
from seektune.diagnosis.dataset import data_causes
from seektune.diagnosis.length import length_cause, outlook
from seektune.diagnosis.recorded import health_causes
from seektune.diagnosis.targets import inventory_causes
from seektune.evaluation.evaluate import verdict
from seektune.recipes.evaluate import spread
from seektune.recipes.probes import Probed, probed
from seektune.recipes.run_folder import read_run
from seektune.reports.html import write_report
from seektune.reports.summary import summarise
from seektune.types import StepMetrics

COMPARED = 2000
"""Rows of a split whose prompts are compared, at most."""


def run(
    folder: Path,
    *,
    probes: bool = True,
    budget: float = 10.0,
    as_json: bool = False,
    console: Console | None = None,
) -> tuple[Cause, ...]:
    """Print and return the causes found in a run folder, most important first; write diagnosis.json.

    Without `probes` only the folder is read and no model is loaded; `budget` is the time for short runs, in
    minutes. Raises ConfigError where the folder holds no run.
    """
    console = console or Console()
    quiet = Console(quiet=True) if as_json else console
    config = read_run(folder).model_copy(update={"output_dir": folder})  # it may have been moved
    metrics = config.output_dir / "metrics.jsonl"
    steps = runlog.read(metrics) if metrics.exists() else ()
    inventory = runlog.read_json(config.output_dir / "inventory.json") or {}
    report = runlog.read_json(config.output_dir / "data" / "report.json") or {}
    said = [finding for step in steps for finding in step.findings]
    curve = learning_curve(steps, own_split=config.data.eval.source is None)
    causes = [*never_began(steps), *inventory_causes(inventory), *health_causes(said)]
    if report:
        causes += data_causes(report, between_splits(config))
    causes += [cause for cause in [length_cause(curve)] if cause]
    found = probed(config, steps, budget, quiet) if probes and steps else Probed()
    order = ranked([*causes, *found.causes])
    answers = {
        "targets": {
            "inventory": inventory.get("rows", []),
            **_only(found.numbers, "gradient_shares", "targets"),
        },
        "data": _data(report) | _only(found.numbers, "labels"),
        "length": curve.to_json() | {"outlook": outlook(curve)},
        "learning_rate": {
            "configured": config.training.learning_rate,
            **_only(found.numbers, "rates", "loss"),
        },
    }
    diagnosis = {"healthy": not order, "causes": [cause.to_json() for cause in order], **answers}
    diagnosis["notes"] = found.notes
    runlog.write_json(config.output_dir / "diagnosis.json", diagnosis)
    evaluations = summarise(config.output_dir).evaluations
    write_report(config.output_dir, verdicts=[verdict(one) for one in evaluations])
    if as_json:
        console.print_json(data=diagnosis)
    else:
        show(console, order, diagnosis)
    return order


def never_began(steps: tuple[StepMetrics, ...]) -> list[Cause]:
    """A run that ended before its first step: the numbers are missing altogether."""
    if steps:
        return []
    return [
        Cause(
            "numbers",
            "no_steps",
            1.0,
            {"steps": 0},
            "The run ended before its first step: `seektune train` on its run.yaml says why.",
        )
    ]


def between_splits(config: RunConfig) -> dict[str, Any] | None:
    """Training against held-out questions, where these have a source of their own."""
    made = config.output_dir / "data" / "prepared"
    if config.data.eval.source is None or not made.is_dir():
        return None
    train, held_out = (spread(RowTable(made / f"{side}.rows.arrow"), COMPARED) for side in ("train", "eval"))
    names = [row.row_id for row in train]
    return match(
        [prompt_text(row) for row in train], [prompt_text(row) for row in held_out], 0, names
    ).to_json()


def show(console: Console, causes: tuple[Cause, ...], diagnosis: dict[str, Any]) -> None:
    """Causes as a numbered list, each with the lines to change; then the answers in a line each."""
    for place, cause in enumerate(causes, 1):
        console.print(
            f"{place}. {cause.kind.replace('_', ' ')}: {cause.sentence}", markup=False, highlight=False
        )
        for row in cause.rows[:5]:
            console.print(f"     {row['row']}", markup=False, highlight=False)
        for line in cause.change:
            console.print(f"   change: {line}", markup=False, highlight=False)
    if not causes:
        console.print("Healthy: nothing was found that should be changed.")
    for note in (diagnosis["length"]["outlook"], *diagnosis["notes"]):
        console.print(note, markup=False, highlight=False)


def _only(numbers: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: numbers[name] for name in names if name in numbers}


def _data(report: dict[str, Any]) -> dict[str, Any]:
    return _only(report, "match", "leakage", "duplicates", "lint", "drops", "splits")
