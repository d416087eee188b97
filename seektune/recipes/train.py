"""`seektune train`: records and a base model in, a proven adapter out."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console

from seektune.adapters.attach import attach
from seektune.adapters.inventory import inventory
from seektune.adapters.store import save_adapter
from seektune.config.run import RunConfig
from seektune.errors import TrainingError
from seektune.evaluation.evaluate import verdict
from seektune.models.chat import load_chat
from seektune.models.load import load_model
from seektune.recipes.costs import size_of
from seektune.recipes.estimate import beside
from seektune.recipes.evaluate import compare, router_unchanged
from seektune.recipes.fit import fit
from seektune.recipes.prepare import prepared
from seektune.recipes.run_folder import open_run
from seektune.reports.html import write_report
from seektune.runlog import write_json
from seektune.training.hardware import process_now
from seektune.training.world import world


def run(
    config: RunConfig,
    *,
    overwrite: bool = False,
    resume: str = "auto",
    task: str | None = None,
    console: Console | None = None,
) -> Path:
    """Train, save, evaluate and report into `config.output_dir`; returns it. A finished run is left alone.

    A run that was begun there goes on from its newest whole checkpoint; `resume` is auto, never or one of
    its checkpoint folders. `task` names the task in `evaluation.json`; by default it is the folder's name.
    Ends in SystemExit (143, 130) where SIGTERM or Ctrl-C stopped it, and in TrainingError where the last
    checkpoint could not be written, with everything else done.
    """
    console = console or Console()
    folder = config.output_dir
    if world()[1] > 1:
        raise TrainingError("`seektune train` runs in one process so far; seektune.train runs in several")
    opened = open_run(config, overwrite=overwrite, resume=resume)
    if opened.finished:
        console.print(f"{folder} is finished: adapter in {folder / 'adapter'}; --overwrite trains again.")
        return folder
    for reason in opened.passed:
        console.print(f"passed over: {reason}", markup=False, highlight=False)
    if opened.state is not None:
        console.print(f"going on after step {opened.state.step}")
    data = prepared(config, load_chat(config.base_model), console=console)
    process = process_now()
    loaded = load_model(config.base_model, dtype=config.compute_dtype, dequantize=config.dequantize)
    attach(loaded, config.lora, seed=config.training.seed)
    console.print(str(inventory(loaded)), highlight=False)

    started = time.process_time() - (opened.state.values["cpu_seconds"] if opened.state else 0.0)
    failure = fit(config, loaded, data, state=opened.state, console=console)
    needed = beside(config, data, process=process)
    write_json(folder / "memory.json", needed)
    save_adapter(loaded, folder / "adapter")
    spent = time.process_time() - started
    proven = "base and router" if router_unchanged(folder) else "base"
    console.print(f"adapter saved in {folder / 'adapter'}; the frozen {proven} proven unchanged")
    predicted, measured = (size_of(needed[f"{key}_bytes"]) for key in ("predicted", "measured"))
    console.print(f"memory at its highest: {measured}, predicted {predicted}", highlight=False)

    found = compare(config, loaded, data, console=console, task=task, cpu_seconds=spent)
    report = write_report(folder, verdicts=[verdict(found)] if found else [])
    console.print(f"report: {report}")
    if failure:
        raise TrainingError(f"the adapter is whole, but {failure}")
    return folder
