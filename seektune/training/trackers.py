"""A run's steps in experiment trackers, through accelerate's own classes for them."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS

from seektune.errors import ConfigError
from seektune.runlog import read_json, write_json
from seektune.training.finding import Finding
from seektune.training.world import world
from seektune.types import StepMetrics

logger = logging.getLogger(__name__)

PROJECT = "seektune"
"""What a run belongs to where WANDB_PROJECT, MLFLOW_EXPERIMENT_NAME, … do not say otherwise."""

TEXTS = ("tensorboard", "wandb", "trackio")
"""Trackers that take words among their numbers."""


def check_installed(names: Iterable[str]) -> None:
    """Raises ConfigError naming every tracker that is not installed, and what installs it."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        named = ", ".join(missing)
        raise ConfigError(
            f"training.report_to: not installed: {named}; pip install 'seektune[track]' brings every tracker"
        )


@contextmanager
def tracked(
    names: Sequence[str], folder: Path, run_name: str, configuration: Mapping[str, Any]
) -> Iterator[Trackers]:
    """The trackers `names` while a run lasts; in processes other than the main one there are none.

    `configuration` (flat) becomes the hyperparameters. What a tracker keeps on disk lies in `folder`, except
    trackio's database, which is one for all runs. WANDB_MODE, MLFLOW_TRACKING_URI, SWANLAB_MODE, TRACKIO_DIR
    and their kin are honoured. A run taken up again goes on in the same place, without any step twice.
    """
    with _mlflow_in(folder):
        trackers = Trackers(names if world()[0] == 0 else (), folder, run_name, configuration)
        try:
            yield trackers
        finally:
            trackers.finish()


class Trackers:
    """Trackers under way. One that fails is left out from then on, with one warning: none ends a run."""

    def __init__(
        self, names: Sequence[str], folder: Path, run_name: str, configuration: Mapping[str, Any]
    ) -> None:
        self._path = folder / "state.json"
        known = read_json(self._path) or {}
        fresh: dict[str, Any] = {"id": secrets.token_hex(8), "step": 0, "mlflow": None}
        self._state = fresh | known
        self._behind = int(self._state["step"])  # up to here a run taken up again is tracked already
        self._running: dict[str, Any] = {}
        self._forgetful = False  # the disk did not take the state
        for name in names:
            options = _options(name, folder, run_name, self._state)
            self._running[name] = LOGGER_TYPE_TO_CLASS[name](**options)
            self._call(name, "start")
        if not known:
            hyperparameters = {key: _plain(value) for key, value in configuration.items()}
            for name in names:
                self._call(name, "store_init_configuration", hyperparameters)
        if "mlflow" in self._running:
            self._state["mlflow"] = self._running["mlflow"].tracker.info.run_id
        self._remember(self._behind)

    def log(self, metrics: StepMetrics) -> None:
        """One step in HF's names, and what health found: a mark `health/KIND`, and its words as text.

        A step that was tracked before the run was taken up again is passed over.
        """
        if metrics.step <= self._behind:
            return
        self._behind = 0  # from here on a step that comes again has been made anew
        numbers = {
            "train/loss": metrics.loss,
            "train/learning_rate": metrics.learning_rate,
            "train/grad_norm": metrics.grad_norm,
            "train/tokens_per_second": metrics.tokens_per_second,
            "train/epoch": metrics.epoch,
        }
        if metrics.eval_loss is not None:
            numbers["eval/loss"] = metrics.eval_loss
        findings = map(Finding.from_json, metrics.findings)
        words = {f"health/{finding.kind}/text": str(finding) for finding in findings}
        numbers |= {key.removesuffix("/text"): 1 for key in words}
        for name in list(self._running):
            values = numbers | words if name in TEXTS else numbers
            self._call(name, "log", values, step=metrics.step)
        self._remember(metrics.step if metrics.applied else metrics.step - 1)

    def finish(self) -> None:
        """Close every tracker; one that sends over a network does so now."""
        for name in list(self._running):
            self._call(name, "finish")
        self._running.clear()

    def _remember(self, step: int) -> None:
        """Write down where a run that is taken up again goes on."""
        if not self._running:
            return
        self._state["step"] = step
        try:
            write_json(self._path, self._state)
        except OSError as error:
            if not self._forgetful:
                logger.warning("a run taken up again will be tracked twice in part: %s", error)
            self._forgetful = True

    def _call(self, name: str, method: str, *values: Any, **options: Any) -> None:
        """Whatever a tracker raises is its own affair: a disk, a network, an account."""
        if name not in self._running:
            return
        try:
            getattr(self._running[name], method)(*values, **options)
        except Exception as error:
            tracker = self._running.pop(name)
            if method == "log":  # what had begun ends, as far as it can
                with suppress(Exception):
                    tracker.finish()
            reason = f"{type(error).__name__}: {error}"
            logger.warning("%s could not %s (%s); the run goes on without it", name, method, reason)


def _options(name: str, folder: Path, run_name: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """How accelerate's class of that tracker is built; a run of the same id is taken up again."""
    project = os.environ.get(f"{name.upper()}_PROJECT", PROJECT)
    taken_up = {"name": run_name, "id": state["id"], "resume": "allow"}
    match name:
        case "tensorboard":
            return {"run_name": "", "logging_dir": folder / name}
        case "mlflow":
            return {"experiment_name": PROJECT, "run_name": run_name, "run_id": state["mlflow"]}
        case "wandb":  # makes its own folder in `dir`
            return {"run_name": project, "dir": folder} | taken_up
        case "swanlab":
            return {"run_name": project, "log_dir": folder / name} | taken_up
        case _:  # trackio knows a run by its name
            return {"run_name": project, "name": f"{run_name}-{state['id'][:6]}", "resume": "allow"}


@contextmanager
def _mlflow_in(folder: Path) -> Iterator[None]:
    """mlflow's files in `folder` and no word to its makers, unless the environment says otherwise."""
    ours = {
        "MLFLOW_TRACKING_URI": (folder / "mlflow").absolute().as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",  # mlflow 3 prefers a database, which mlflow-skinny cannot open
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    ours = {key: value for key, value in ours.items() if key not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for key in ours:
            os.environ.pop(key, None)


def _plain(value: Any) -> Any:
    """A hyperparameter as every tracker takes it."""
    return value if isinstance(value, bool | int | float | str) else str(value)
