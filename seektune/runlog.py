"""A run's records: one JSON line per optimiser step, and files that are whole or absent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seektune.errors import TrainingError
from seektune.types import StepMetrics


def append(path: Path | str, metrics: StepMetrics) -> None:
    """Add one step to `metrics.jsonl`; the line is on its way to the disk when this returns."""
    line = asdict(metrics) | {"tokens_per_second": metrics.tokens_per_second}
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read(path: Path | str) -> tuple[StepMetrics, ...]:
    """The steps of a `metrics.jsonl`; a last line cut short by a killed run is left out.

    Raises TrainingError naming file and line of anything else that is not a step.
    """
    return tuple(metrics for _, metrics in _lines(Path(path)))


def cut(path: Path | str, step: int) -> None:
    """Leave the steps up to `step` in a `metrics.jsonl`: what came after the checkpoint comes again."""
    path = Path(path)
    if path.exists():
        write_text(path, "".join(line for line, metrics in _lines(path) if metrics.step <= step))


def _lines(path: Path) -> Iterator[tuple[str, StepMetrics]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            return
        try:
            fields = json.loads(line)
            fields.pop("tokens_per_second")
            yield line, StepMetrics(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TrainingError(f"{path}:{number} is not a training step: {error}") from None


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path | str, text: str) -> None:
    """Write a file in one move: a reader sees the old one or the new one, never a part."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.tmp")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
