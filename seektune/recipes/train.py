"""`seektune train`: records and a base model in, a proven adapter out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from seektune import runlog
from seektune.adapters.attach import attach
from seektune.adapters.inventory import inventory
from seektune.adapters.store import save_adapter
from seektune.config.run import RunConfig
from seektune.data.batches import Batches
from seektune.data.prepare import Prepared
from seektune.errors import TrainingError
from seektune.evaluation.evaluate import verdict
from seektune.models.chat import load_chat
from seektune.models.load import Loaded, load_model
from seektune.recipes.evaluate import compare, router_unchanged
from seektune.recipes.prepare import prepared
from seektune.recipes.progress import track
from seektune.recipes.run_folder import open_run
from seektune.reports.html import write_report
from seektune.training.loop import train
from seektune.training.schedule import planned_steps
from seektune.training.world import world
from seektune.types import Sample

NOT_FOR_THE_LOOP = {
    *("objective", "per_device_train_batch_size", "bf16", "fp16"),
    *("logging_steps", "save_steps", "report_to"),
}


def run(
    config: RunConfig, *, overwrite: bool = False, task: str | None = None, console: Console | None = None
) -> Path:
    """Train, save, evaluate and report into `config.output_dir`; returns it. A finished run is left alone.

    `task` names the task in `evaluation.json`; by default it is the folder's name.
    """
    console = console or Console()
    folder = config.output_dir
    if world()[1] > 1:
        raise TrainingError("`seektune train` runs in one process so far; seektune.train runs in several")
    if not open_run(config, overwrite=overwrite):
        console.print(f"{folder} is finished: adapter in {folder / 'adapter'}; --overwrite trains again.")
        return folder
    data = prepared(config, load_chat(config.base_model), console=console)
    loaded = load_model(config.base_model, dtype=config.compute_dtype, dequantize=config.dequantize)
    attach(loaded, config.lora, seed=config.training.seed)
    console.print(str(inventory(loaded)), highlight=False)

    started = time.process_time()
    fit(config, loaded, data, console=console)
    save_adapter(loaded, folder / "adapter")
    spent = time.process_time() - started
    proven = "base and router" if router_unchanged(folder) else "base"
    console.print(f"adapter saved in {folder / 'adapter'}; the frozen {proven} proven unchanged")

    found = compare(config, loaded, data, console=console, task=task, cpu_seconds=spent)
    report = write_report(folder, verdicts=[verdict(found)] if found else [])
    console.print(f"report: {report}")
    return folder


def fit(config: RunConfig, loaded: Loaded, data: Prepared, *, console: Console) -> None:
    """The optimiser steps: each is logged to metrics.jsonl, every `save_steps`-th leaves a snapshot."""
    settings, folder = config.training, config.output_dir
    rows = ragged(config, data.train)
    held_out = ragged(config, data.held_out, shuffle=False) if len(data.held_out) else None
    total = planned_steps(
        rows,
        max_steps=settings.max_steps,
        num_train_epochs=settings.num_train_epochs,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
    )
    steps = train(
        loaded,
        rows,
        eval_batches=held_out,
        output_dir=folder,
        **settings.model_dump(exclude=NOT_FOR_THE_LOOP),
    )
    for metrics in track(steps, total, console=console, logging_steps=settings.logging_steps):
        runlog.append(folder / "metrics.jsonl", metrics)
        if metrics.step % settings.save_steps == 0:
            save_adapter(loaded, folder / "checkpoints" / f"step-{metrics.step}")


def ragged(config: RunConfig, samples: Sequence[Sample], shuffle: bool = True) -> Batches:
    """The samples in ragged batches as the run is configured."""
    return Batches(
        samples=samples,
        batch_size=config.training.per_device_train_batch_size,
        pack_tokens=config.data.pack_tokens,
        seed=config.training.seed,
        shuffle=shuffle,
    )
