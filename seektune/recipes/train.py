"""`seektune train`: records and a base model in, a proven adapter out."""

from __future__ import annotations

import logging
import time
from functools import partial
from pathlib import Path

from rich.console import Console

from seektune.adapters.attach import attach
from seektune.adapters.inventory import inventory
from seektune.adapters.shards import is_sharded, whole_adapter
from seektune.adapters.store import save_adapter
from seektune.config.run import RunConfig
from seektune.data.prepare import Prepared, open_prepared
from seektune.errors import TrainingError
from seektune.evaluation.evaluate import verdict
from seektune.models.chat import load_chat
from seektune.models.load import Loaded, load_model
from seektune.recipes.costs import size_of
from seektune.recipes.estimate import beside
from seektune.recipes.evaluate import compare, router_unchanged
from seektune.recipes.fit import fit
from seektune.recipes.prepare import prepared
from seektune.recipes.run_folder import begin_run, open_run
from seektune.reports.html import write_report
from seektune.runlog import write_json
from seektune.training.hardware import process_now
from seektune.training.trackers import check_installed
from seektune.training.world import first_alone, lost_processes_named, world


@lost_processes_named()
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
    Of several processes the first alone prints, writes and evaluates, and all end the same way.
    Ends in SystemExit (143, 130) where SIGTERM or Ctrl-C stopped it, and in TrainingError where the last
    checkpoint could not be written, with everything else done.
    """
    console = _console(console)
    folder = config.output_dir
    check_installed(config.training.report_to)
    opened = first_alone(partial(open_run, config, overwrite=overwrite, resume=resume))
    if opened.finished:
        console.print(f"{folder} is finished: adapter in {folder / 'adapter'}; --overwrite trains again.")
        return folder
    for reason in opened.passed:
        console.print(f"passed over: {reason}", markup=False, highlight=False)
    if opened.state is not None:
        console.print(f"going on after step {opened.state.step}")
    first_alone(lambda: prepared(config, load_chat(config.base_model), console=console) and None)
    _check_shared(folder)
    data = open_prepared(folder / "data")
    process = process_now()
    loaded = load_model(config.base_model, dtype=config.compute_dtype, dequantize=config.dequantize)
    attach(loaded, config.lora, seed=config.training.seed)
    console.print(str(inventory(loaded)), highlight=False)
    first_alone(partial(begin_run, config, opened.state))

    started = time.process_time() - (opened.state.values["cpu_seconds"] if opened.state else 0.0)
    failure = fit(config, loaded, data, state=opened.state, console=console)
    with whole_adapter(loaded):
        first_alone(lambda: save_adapter(loaded, folder / "adapter"))
    spent = time.process_time() - started
    first_alone(lambda: _show(config, loaded, data, console, task=task, cpu_seconds=spent, process=process))
    if failure:
        raise TrainingError(f"the adapter is whole, but {failure}")
    return folder


def _show(
    config: RunConfig,
    loaded: Loaded,
    data: Prepared,
    console: Console,
    *,
    task: str | None,
    cpu_seconds: float,
    process: int,
) -> None:
    """What the run has come to: on the console, in memory.json, evaluation.json and report.html."""
    folder, found = config.output_dir, None
    proven = "base and router" if router_unchanged(folder) else "base"
    console.print(f"adapter saved in {folder / 'adapter'}; the frozen {proven} proven unchanged")
    if is_sharded(loaded):
        console.print(f"this process holds a part of the model; its accuracy: seektune evaluate {folder}")
    else:
        needed = beside(config, data, process=process)
        write_json(folder / "memory.json", needed)
        predicted, measured = (size_of(needed[f"{key}_bytes"]) for key in ("predicted", "measured"))
        console.print(f"memory at its highest: {measured}, predicted {predicted}", highlight=False)
        found = compare(config, loaded, data, console=console, task=task, cpu_seconds=cpu_seconds)
    report = write_report(folder, verdicts=[verdict(found)] if found else [])
    console.print(f"report: {report}")


def _check_shared(folder: Path) -> None:
    """Refuse a folder that is not the one the first process has opened."""
    if not (folder / "data").exists():
        raise TrainingError(
            f"{folder} of the first process is not here: with several machines output_dir must lie on "
            "storage that all of them share"
        )


def _console(console: Console | None) -> Console:
    """The console of the first process; the others say nothing but errors of their own."""
    if world()[0] == 0:
        return console or Console()
    logging.getLogger("seektune").setLevel(logging.ERROR)
    return Console(quiet=True)
