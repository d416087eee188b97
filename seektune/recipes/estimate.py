"""`seektune estimate`: what a run needs and costs, before anything is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console

from seektune.config.run import RunConfig
from seektune.data.prepare import Prepared, prepare
from seektune.errors import ModelError
from seektune.models.chat import load_chat
from seektune.models.load import Loaded
from seektune.models.outline import Architecture, architecture, outline
from seektune.recipes.costs import page
from seektune.recipes.fit import ragged
from seektune.training.estimate import Estimate, predict
from seektune.training.footprint import Device, Workload
from seektune.training.hardware import CONTEXT_BYTES, measured_peak, process_bytes
from seektune.training.schedule import planned_steps


@dataclass(frozen=True)
class Plan:
    """The run as an estimate sees it; `assumed` says what is not known of the data."""

    load: Workload
    tokens: int
    steps: int
    assumed: str = ""


def run(
    config: RunConfig, *, as_json: bool = False, console: Console | None = None
) -> dict[Device, Estimate]:
    """Print what the run needs and costs on a CPU and on a GPU; returns both estimates."""
    console = console or Console()
    described = architecture(config.base_model)
    outlined = outline(described)
    plan = planned(config, described, _data(config))
    processes: dict[Device, int] = {"cpu": process_bytes(), "cuda": CONTEXT_BYTES}
    found = {
        device: estimated(config, described, outlined, plan, device, process=process)
        for device, process in processes.items()
    }
    if as_json:
        console.print_json(
            data={device: one.to_json() for device, one in found.items()} | {"assumed": plan.assumed}
        )
    else:
        page(console, config.lora, described, outlined, plan.load, found, assumed=plan.assumed)
    return found


def estimated(
    config: RunConfig,
    described: Architecture,
    outlined: Loaded,
    plan: Plan,
    device: Device,
    *,
    process: int,
) -> Estimate:
    """The estimate of a plan on one kind of device; `process` as `predict` has it."""
    return predict(
        outlined,
        config.lora,
        replace(plan.load, device=device),
        process=process,
        tokens=plan.tokens,
        steps=plan.steps,
        stored=getattr(torch, described.stored),
    )


def planned(config: RunConfig, described: Architecture, data: Prepared | None) -> Plan:
    """Rows, tokens and steps of the run; without data, one step of rows as long as they may be."""
    training, limit, samples = (
        config.training,
        config.data.max_length,
        config.training.per_device_train_batch_size,
    )
    load = Workload(
        tokens=config.data.pack_tokens or samples * limit,
        longest=limit,
        dtype=getattr(torch, described.stored if config.compute_dtype == "auto" else config.compute_dtype),
        gradient_checkpointing=training.gradient_checkpointing,
        every_n_layers=training.gradient_checkpointing_kwargs.every_n_layers,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        saves=True,
    )
    if data is None:
        parts = training.stages or [training]
        steps = max(1, sum(part.max_steps or 0 for part in parts))
        assumed = f"every sample has {limit:,} tokens and steps are {steps:,}: the data is not prepared"
        return Plan(load, steps * load.tokens * training.gradient_accumulation_steps, steps, assumed)
    counts = data.report["splits"]["train"]
    rows = ragged(config, data.train)
    steps = planned_steps(rows, training)
    windows = steps * training.gradient_accumulation_steps
    load = replace(
        load,
        tokens=rows.longest(math.ceil(windows / len(rows))),
        longest=int(rows.lengths.max()),
        learned=counts["trained_tokens"] / max(counts["tokens"], 1),
    )
    return Plan(load, round(rows.lengths.sum() / len(rows) * windows), steps)


def beside(config: RunConfig, data: Prepared, *, process: int) -> Mapping[str, Any]:
    """What a run that has ended was predicted to need, beside this process's highest memory so far, bytes.

    `process` is what the process held before it loaded the model.
    """
    described = architecture(config.base_model)
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    plan = planned(config, described, data)
    estimate = estimated(config, described, outline(described), plan, device, process=process)
    measured = measured_peak()
    return {
        "predicted_bytes": estimate.memory.peak,
        "measured_bytes": measured,
        "error": estimate.memory.peak / measured - 1,
        "parts": dict(estimate.memory.parts),
    }


def _data(config: RunConfig) -> Prepared | None:
    """The data as `train` would prepare it, kept where it would look for it; None without a tokenizer."""
    try:
        chat = load_chat(config.base_model)
    except ModelError:  # the configuration alone is here
        return None
    if chat.tokenizer is None:
        return None
    return prepare(config.data, chat, config.output_dir / "data", seed=config.training.seed)
