"""What a run will cost, from config.json alone: parameters, memory, FLOPs, time and disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from seektune.adapters.attach import chosen_sites
from seektune.config.adapter import AdapterSpec
from seektune.models.families import ALL_LINEAR, GROUPS
from seektune.models.load import Loaded
from seektune.models.sites import all_sites
from seektune.training.flops import flops
from seektune.training.footprint import FINE, Workload, adapter_values, terms
from seektune.training.hardware import CARDS, seconds_on
from seektune.training.memory import Memory, memory

BITS: Mapping[str, float] = {"float32": 32, "bfloat16": 16, "int8": 8.25, "int4": 4.5}
"""Bits of a weight; quantised ones with their scales, in groups of 64."""
PLAIN = ("embeddings", "other")
"""What quantisation leaves in 16 bits."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The cost of a run; bytes, FLOPs and seconds."""

    model: str
    parameters: Mapping[str, int]  # of the base, by group
    trainable: Mapping[str, int]  # of the adapter, by group
    weights: Mapping[str, int]  # bytes of the base, by precision
    memory: Memory  # at the highest moment
    tokens: int  # of all rows of the run
    steps: int  # optimiser steps
    flops: float  # of the run
    seconds: Mapping[str, float]  # of the run, by card
    disk: Mapping[str, int]  # adapter, one checkpoint

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the totals."""
        return asdict(self) | {
            "total_parameters": sum(self.parameters.values()),
            "total_trainable": sum(self.trainable.values()),
            "peak_bytes": self.memory.peak,
        }


@dataclass(frozen=True)
class Choice:
    """One line of the table of choices: what it would train and the peak it would need."""

    targets: tuple[str, ...]
    r: int
    trainable: int
    peaks: Mapping[str, int]  # bytes, by precision with or without checkpointing


def predict(
    outlined: Loaded,
    spec: AdapterSpec,
    load: Workload,
    *,
    process: int,
    tokens: int,
    steps: int,
    stored: torch.dtype | None = None,
) -> Estimate:
    """The cost of `steps` optimiser steps that see `tokens` tokens in rows as `load` describes the longest.

    `outlined` comes from `models.outline`; `process` is what the process needs by itself, bytes
    (`hardware.process_bytes` or CONTEXT_BYTES); `stored` is the checkpoint's dtype. Raises TargetError as
    `attach` does.
    """
    parameters, trainable = base_parameters(outlined), adapter_parameters(outlined, spec)
    work = flops(outlined, terms(outlined, spec), load) * tokens / load.tokens
    passes = 2 + load.gradient_checkpointing / load.every_n_layers
    read = sum(parameters.values()) * load.itemsize * passes * max(1, round(tokens / load.tokens))
    adapter = sum(trainable.values()) * FINE
    return Estimate(
        model=outlined.source,
        parameters=parameters,
        trainable=trainable,
        weights={name: weight_bytes(parameters, bits) for name, bits in BITS.items()},
        memory=memory(outlined, spec, load, process=process, stored=stored or load.dtype, steps=steps),
        tokens=tokens,
        steps=steps,
        flops=work,
        seconds={name: seconds_on(card, work, read, load.dtype) for name, card in CARDS.items()},
        disk={"adapter": adapter, "checkpoint": 3 * adapter},
    )


def base_parameters(outlined: Loaded) -> dict[str, int]:
    """Parameters of the base: the groups of targets, embeddings (with the output head), and the others."""
    sites = all_sites(outlined.model, outlined.family)
    counts = {
        group: sum(_size(site.module) for site in sites if site.group == group)
        for group in GROUPS
        if group in outlined.family.groups
    }
    ends = (outlined.model.get_input_embeddings(), outlined.model.get_output_embeddings())
    counts["embeddings"] = sum(p.numel() for p in {id(end.weight): end.weight for end in ends}.values())
    total = sum(parameter.numel() for parameter in outlined.model.parameters())
    return counts | {"other": total - sum(counts.values())}


def adapter_parameters(outlined: Loaded, spec: AdapterSpec) -> dict[str, int]:
    """Trainable parameters by group: r (in + out) of a linear, r (2 H + 3 I) of each chosen expert."""
    counts: dict[str, int] = {}
    for site, experts in chosen_sites(outlined, spec):
        counts[site.group] = counts.get(site.group, 0) + adapter_values(site.module, experts, spec.r)
    return counts


def weight_bytes(parameters: Mapping[str, int], bits: float) -> int:
    """Bytes of the base at that many bits a weight; below 16, embeddings, norms and router stay at 16."""
    return round(
        sum(count * (max(bits, 16) if group in PLAIN else bits) / 8 for group, count in parameters.items())
    )


def choices(
    outlined: Loaded, spec: AdapterSpec, load: Workload, *, process: int, steps: int, ranks: Sequence[int]
) -> Iterator[Choice]:
    """Every set of groups and every rank: adapter size, and the peak in each precision.

    Chosen experts are kept where routed ones are targeted.
    """
    loads = {
        f"{name}{' checkpointed' if again else ''}": replace(
            load, dtype=getattr(torch, name), gradient_checkpointing=again
        )
        for name in ("bfloat16", "float32")
        for again in (False, True)
    }
    for targets in target_sets(outlined):
        for r in ranks:
            kept = {"target_modules": targets, "r": r, "exclude_modules": ()}
            one = spec.model_copy(update=kept | ({} if "routed" in targets else {"experts": None}))
            yield Choice(
                targets,
                r,
                sum(adapter_parameters(outlined, one).values()),
                {
                    name: memory(outlined, one, each, process=process, stored=each.dtype, steps=steps).peak
                    for name, each in loads.items()
                },
            )


def target_sets(outlined: Loaded) -> list[tuple[str, ...]]:
    """Sets of targets that make sense on this model, smallest first."""
    sets: list[tuple[str, ...]] = [("attention",), (ALL_LINEAR,)]
    return [*sets, ("attention", "routed"), (ALL_LINEAR, "routed")] if outlined.family.experts else sets


def _size(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))
