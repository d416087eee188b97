"""A run's records: one JSON line per optimiser step, and files that are whole or absent."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seektune.errors import TrainingError
from seektune.types import StepMetrics

logger = logging.getLogger(__name__)


class Log:
    """A run's `metrics.jsonl`, which a full disk does not stop: what it refuses is written with a later step.

    `failure` says why steps wait to be written, None where none does.
    """

    def __init__(self, path: Path | str) -> None:
        self.failure: str | None = None
        self._path = Path(path)
        self._waiting: list[StepMetrics] = []

    def read(self) -> tuple[StepMetrics, ...]:
        """The steps so far."""
        return read(self._path) if self._path.exists() else ()

    def append(self, metrics: StepMetrics) -> None:
        """Add one step; one warning when that begins to fail."""
        self._waiting.append(metrics)
        try:
            while self._waiting:
                append(self._path, self._waiting[0])
                del self._waiting[0]
            self.failure = None
        except OSError as error:
            if self.failure is None:
                logger.warning("step %d is not logged yet: %s; the run goes on", metrics.step, error)
            self.failure = f"{len(self._waiting)} steps could not be logged in {self._path}: {error}"


def append(path: Path | str, metrics: StepMetrics) -> None:
    """Add one step to `metrics.jsonl`; the line is on its way to the disk when this returns.

    Raises OSError where there is no room for it, and leaves no part of it then.
    """
    path = Path(path)
    line = asdict(metrics) | {"tokens_per_second": metrics.tokens_per_second}
    before = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError:
        if path.is_file():
            os.truncate(path, before)
        raise


def read(path: Path | str) -> tuple[StepMetrics, ...]:
    """The steps of a `metrics.jsonl`; a last line cut short by a killed run is left out.

    Raises TrainingError naming file and line of anything else that is not a step.
    """
    return tuple(metrics for _, metrics in _lines(Path(path)))


def cut(path: Path | str, step: int) -> None:
    """Leave a `metrics.jsonl` as it was after `step` was applied, for the last time where it was undone.

    What came after the checkpoint of that step comes again.
    """
    path = Path(path)
    if not path.exists():
        return
    lines = list(_lines(path))
    ends = [index for index, (_, metrics) in enumerate(lines) if metrics.applied and metrics.step <= step]
    last = max(ends, key=lambda index: (lines[index][1].step, index), default=-1)
    write_text(path, "".join(line for line, _ in lines[: last + 1]))


def _lines(path: Path) -> Iterator[tuple[str, StepMetrics]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not line.endswith("\n"):
            return
        try:
            fields = json.loads(line)
            fields.pop("tokens_per_second")
            fields["findings"] = tuple(fields.get("findings", ()))
            yield line, StepMetrics(**fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise TrainingError(f"{path}:{number} is not a training step: {error}") from None


def read_json(path: Path | str) -> Any:
    """The content of a JSON file, None where there is none."""
    path = Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


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
