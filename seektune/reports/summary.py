"""What a run folder says about its run, read once for the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seektune import runlog
from seektune.types import Evaluation, InventoryRow, Score, StepMetrics


@dataclass(frozen=True)
class Summary:
    """One run; what it has not written (yet) is empty."""

    name: str
    config: str  # run.yaml as it stands
    environment: dict[str, Any]
    inventory: tuple[InventoryRow, ...]
    total_parameters: int
    checks: dict[str, Any]
    steps: tuple[StepMetrics, ...]
    memory: dict[str, Any]  # predicted beside measured
    evaluations: tuple[Evaluation, ...]
    diagnosis: dict[str, Any] | None  # causes, most important first

    @property
    def trainable(self) -> int:
        """Adapter parameters in all groups."""
        return sum(row.trainable for row in self.inventory)

    @property
    def seconds(self) -> float:
        """Wall time of all optimiser steps."""
        return sum(step.seconds for step in self.steps)

    @property
    def tokens(self) -> int:
        """Tokens trained on, repetitions included."""
        return sum(step.tokens for step in self.steps)


def summarise(folder: Path | str) -> Summary:
    """Read the run's records (run.yaml, metrics.jsonl and the JSON files), as far as they are there."""
    folder = Path(folder)
    inventory = runlog.read_json(folder / "inventory.json") or {}
    metrics = folder / "metrics.jsonl"
    config = folder / "run.yaml"
    return Summary(
        name=folder.resolve().name,
        config=config.read_text("utf-8") if config.exists() else "",
        environment=runlog.read_json(folder / "environment.json") or {},
        inventory=tuple(InventoryRow(**row) for row in inventory.get("rows", ())),
        total_parameters=inventory.get("total_parameters", 0),
        checks=inventory.get("checks", {}),
        steps=runlog.read(metrics) if metrics.exists() else (),
        memory=runlog.read_json(folder / "memory.json") or {},
        evaluations=tuple(_evaluation(entry) for entry in runlog.read_json(folder / "evaluation.json") or ()),
        diagnosis=runlog.read_json(folder / "diagnosis.json"),
    )


def _evaluation(entry: dict[str, Any]) -> Evaluation:
    scores = {key: Score(**entry[key]) for key in ("base", "base_calibrated", "tuned")}
    return Evaluation(**{**entry, **scores})
