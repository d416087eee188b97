"""The optimiser steps of `seektune train`: shown, logged, saved, and stopped in order."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from seektune.adapters.inventory import inventory
from seektune.config.run import RunConfig, leaves, resolved
from seektune.data.batches import Batches
from seektune.data.prepare import Prepared
from seektune.models.load import Loaded
from seektune.recipes.interruption import interruption
from seektune.recipes.progress import is_shown, track
from seektune.runlog import Log
from seektune.training.loop import train
from seektune.training.saver import Saver
from seektune.training.schedule import planned_steps
from seektune.training.stages import planned_stages
from seektune.training.state import State
from seektune.training.trackers import tracked
from seektune.training.world import first_alone, highest, world
from seektune.types import Sample, StepMetrics

PASSED_ON = 5.0
"""Seconds within which a launcher repeats to its processes the signal that they have received already."""

NOT_FOR_THE_LOOP = {
    *("objective", "per_device_train_batch_size", "bf16", "fp16"),
    *("logging_steps", "save_steps", "save_total_limit", "report_to"),
}


def fit(
    config: RunConfig, loaded: Loaded, data: Prepared, *, state: State | None, console: Console
) -> str | None:
    """The steps after `state`: each is logged to metrics.jsonl, every `save_steps`-th, the last, and the best
    so far leave a checkpoint. Returns what a failing disk did not take, if so. Of several processes the
    first one alone writes; a signal to any of them ends all after the same step.
    """
    settings, folder = config.training, config.output_dir
    first, alone = world()[0] == 0, world()[1] == 1
    rows = ragged(config, data.train)
    held_out = ragged(config, data.held_out, shuffle=False) if len(data.held_out) else None
    total = planned_steps(rows, settings)
    log = Log(folder / "metrics.jsonl")
    for stage in planned_stages(loaded, rows, settings):
        console.print(f"{stage}\n{inventory(loaded, stage.sites)}", markup=False, highlight=False)
    run = train(
        loaded,
        rows,
        eval_batches=held_out,
        output_dir=folder,
        resume=state,
        history=() if state is None else first_alone(log.read),
        **{key: value for key, value in settings if key not in NOT_FOR_THE_LOOP},
    )
    stopped = 0
    shown = track(run, total, console=console, logging_steps=settings.logging_steps)
    with (
        tracked(settings.report_to, folder / "tracking", folder.name, leaves(resolved(config))) as trackers,
        interruption(grace=0.0 if alone else PASSED_ON, told=first) as asked,
        Saver(folder / "checkpoints", keep=settings.save_total_limit) as saver,
        closing(run),
        closing(shown),
    ):
        unsaved: StepMetrics | None = None  # the step that a checkpoint would be of
        for metrics in shown:
            if first:
                log.append(metrics)
                saver.poll()
                if is_shown(metrics, total, settings.logging_steps):
                    trackers.log(metrics)
            if metrics.applied:
                unsaved = metrics
            elif metrics.calls_for("rollback"):
                unsaved = None
            stops = metrics.calls_for("stop")
            if unsaved is None or not (metrics.applied or stops):
                continue
            due = stops or unsaved.step == total or unsaved.step % settings.save_steps == 0
            if first:
                due = due or saver.is_best(unsaved.eval_loss)
            save, stopped = highest(due, asked[0] if asked else 0)
            if save or stopped:
                state = run.state()
                if first:
                    saver.save(state, eval_loss=unsaved.eval_loss)
                unsaved = None
            if stopped:
                break
    return first_alone(lambda: _end(saver.failure or log.failure, folder, stopped, console))


def _end(failure: str | None, folder: Path, stopped: int, console: Console) -> str | None:
    """Leave by SystemExit where a signal stopped the run."""
    if not stopped:
        return failure
    for line in (failure or "stopped, and saved", f"go on with: seektune train {folder / 'run.yaml'}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    raise SystemExit(128 + stopped)


def ragged(config: RunConfig, samples: Sequence[Sample], shuffle: bool = True) -> Batches:
    """This process's share of the samples in ragged batches, as the run is configured."""
    rank, size = world()
    return Batches(
        samples=samples,
        batch_size=config.training.per_device_train_batch_size,
        pack_tokens=config.data.pack_tokens,
        seed=config.training.seed,
        rank=rank,
        world_size=size,
        shuffle=shuffle,
    )
