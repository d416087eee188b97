"""`seektune evaluate`: base against adapter on the held-out rows of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from seektune.config.run import RunConfig
from seektune.data.prepare import Prepared, open_prepared
from seektune.errors import DataError
from seektune.evaluation.evaluate import evaluate, verdict
from seektune.models.load import Loaded
from seektune.recipes.adapted import open_adapted
from seektune.recipes.prepare import prepared
from seektune.recipes.run_folder import read_run
from seektune.runlog import read_json, write_json
from seektune.types import Evaluation, Example, Row, Score

T = TypeVar("T")

BASELINE_ROWS = 20_000
"""Training rows the simple baselines learn from, at most."""


def run(folder: Path, *, console: Console | None = None) -> Evaluation | None:
    """Evaluate a finished run again, from its files alone, and rewrite its `evaluation.json`."""
    console = console or Console()
    config = read_run(folder)
    loaded = open_adapted(str(folder))
    return compare(config, loaded, recorded(config, loaded, console), console=console)


def recorded(config: RunConfig, loaded: Loaded, console: Console) -> Prepared:
    """The data a run was trained on; made anew where it was removed."""
    try:
        return open_prepared(config.output_dir / "data")
    except DataError:
        return prepared(config, loaded, console=console)


def compare(
    config: RunConfig,
    loaded: Loaded,
    data: Prepared,
    *,
    console: Console,
    task: str | None = None,
    cpu_seconds: float = 0.0,
) -> Evaluation | None:
    """Score the held-out rows with the adapter off and on, print the table, write `evaluation.json`.

    Open text has no options to choose between: where all rows are open nothing is written and None comes
    back; the held-out loss is in metrics.jsonl. `cpu_seconds` are those of the training before.
    """
    held_out, train_rows = closed(data.held_out_rows), closed(data.train_rows, at_most=BASELINE_ROWS)
    if not held_out or not train_rows:
        why = "the rows are open text." if len(data.held_out_rows) else "no row is held out."
        console.print(f"No accuracy: {why}")
        return None
    if left := len(data.held_out_rows) - len(held_out):
        console.print(f"{left:,} held-out rows are open text and have no accuracy")
    found = evaluate(
        loaded,
        train_rows,
        held_out,
        model=Path(config.base_model).name,
        task=task or config.output_dir.name,
        router_unchanged=router_unchanged(config.output_dir),
        cpu_seconds=cpu_seconds,
    )
    write_json(config.output_dir / "evaluation.json", [found.to_json()])
    console.print(table(found))
    console.print(verdict(found))
    return found


def closed(rows: Sequence[Row], at_most: int | None = None) -> list[Example]:
    """The rows with options to choose from; of more than `at_most` rows, that many evenly spread ones."""
    taken = rows if at_most is None else spread(rows, at_most)
    return [row for row in taken if isinstance(row, Example) and row.answer is not None]


def spread(rows: Sequence[T], at_most: int) -> list[T]:
    """At most so many rows, evenly spread."""
    step = max(1, math.ceil(len(rows) / at_most))
    return [rows[number] for number in range(0, len(rows), step)]


def router_unchanged(folder: Path) -> bool | None:
    """What the trained-what gate found about the router; None where there is none."""
    inventory = read_json(folder / "inventory.json") or {"checks": {}}
    found: bool | None = inventory["checks"].get("router_unchanged")
    return found


def table(found: Evaluation) -> Table:
    """Accuracies with their 95 % intervals, simplest first."""
    page = Table("on " + f"{found.n} held-out rows", "accuracy", "95 % interval", box=None, pad_edge=False)
    page.add_row("majority class", f"{found.majority:.1%}", "")
    for name, score in (("base", found.base), ("base, calibrated", found.base_calibrated)):
        page.add_row(name, *_cells(score))
    page.add_row("TF-IDF + logistic regression", f"{found.tfidf:.1%}", "")
    page.add_row("with the adapter", *_cells(found.tuned), style="bold")
    return page


def _cells(score: Score) -> tuple[str, str]:
    return f"{score.accuracy:.1%}", f"{score.low:.1%} – {score.high:.1%}"
