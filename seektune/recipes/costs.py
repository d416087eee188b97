"""The page that `seektune estimate` prints: every number with its unit, every guess called one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.table import Table

from seektune.config.adapter import AdapterSpec
from seektune.models.load import Loaded
from seektune.models.outline import Architecture
from seektune.training.estimate import Estimate, choices
from seektune.training.footprint import Device, Workload
from seektune.training.hardware import CARDS, CONTEXT_BYTES, GIB, HERE_EFFICIENCY, SIZES, rate_here

RANKS = (8, 16, 64)
GUESSES = (
    "GPU memory: context, allocator and experts' workspace are guesses; none was measured on a GPU",
    "time on cards: 40 % of the data sheet's FLOP/s and 70 % of its bandwidth are guesses; waiting for data, "
    "evaluation and saving are left out",
    "experts: tokens are taken to be spread evenly",
)
UNFUSED = "{} runs transformers' own attention: its activations are a guess"


def page(
    console: Console,
    spec: AdapterSpec,
    described: Architecture,
    outlined: Loaded,
    load: Workload,
    found: Mapping[Device, Estimate],
    *,
    assumed: str,
) -> None:
    """Parameters, memory, cost, choices, and what of it is a guess."""
    one = found["cuda"]
    precision = str(load.dtype).removeprefix("torch.")
    again = ", gradient checkpointing" if load.gradient_checkpointing else ""
    total, trained = sum(one.parameters.values()), sum(one.trainable.values())
    console.print(f"{one.model}: {total:,} parameters, an adapter of {trained:,} ({trained / total:.2%})\n")
    console.print(_parameters(one))
    sizes = ", ".join(f"{name} {size_of(size)}" for name, size in one.weights.items())
    console.print(f"weights alone: {sizes}\n")
    console.print(f"memory at its highest, {precision}, rows of up to {load.tokens:,} tokens{again}")
    console.print(_memory(found))
    console.print(f"fits {fits(one.memory.peak)}\n")
    for line in _work(one, load):
        console.print(line, highlight=False)
    console.print(_time(one, load))
    console.print("\npeak on a GPU by choice, GiB → the smallest of 12, 24, 48, 80 GB it fits; same rows")
    console.print(_choices(outlined, spec, load, one.steps))
    console.print("\nguesses")
    notes = [assumed] if assumed else []
    notes += [] if outlined.family.packs else [UNFUSED.format(outlined.family.model_type)]
    if described.quantised:
        notes.append(
            f"stored as {described.quantised}, which is dequantised: the file is smaller than the weights"
        )
    for note in (*notes, *GUESSES):
        console.print(f"  {note}", highlight=False)


def fits(peak: int) -> str:
    """`12 GB no · 24 GB no · 48 GB yes · 80 GB yes`: cards by their memory, GB as sold (GiB)."""
    return " · ".join(f"{size} GB {'yes' if peak <= size * GIB else 'no'}" for size in SIZES)


def _parameters(one: Estimate) -> Table:
    table = _table("group", "parameters", "trained")
    for group, count in one.parameters.items():
        table.add_row(group, f"{count:,}", f"{one.trainable.get(group, 0):,}")
    return table


def _memory(found: Mapping[Device, Estimate]) -> Table:
    cpu, gpu = (found[device].memory for device in ("cpu", "cuda"))
    table = _table("part", "on this CPU", "on a GPU")
    for part in dict.fromkeys([*cpu.parts, *gpu.parts]):
        sizes = [memory.parts.get(part, 0) for memory in (cpu, gpu)]
        if any(sizes):
            table.add_row(part, *(size_of(size) if size else "–" for size in sizes))
    table.add_row("peak", *(size_of(memory.peak) for memory in (cpu, gpu)))
    table.add_row("when", cpu.moment, gpu.moment)
    return table


def _work(one: Estimate, load: Workload) -> Iterable[str]:
    steps = "1 step" if one.steps == 1 else f"{one.steps:,} steps"
    yield f"{steps}, {one.tokens:,} tokens, {one.tokens / one.steps:,.0f} tokens a step"
    yield f"{one.flops:.3g} FLOPs, {one.flops / one.steps:.3g} a step, {one.flops / one.tokens:.3g} a token"
    adapter, checkpoint = (size_of(one.disk[name]) for name in ("adapter", "checkpoint"))
    yield f"on disk: adapter {adapter}, every checkpoint kept {checkpoint}"


def _time(one: Estimate, load: Workload) -> Table:
    """Cards that hold the run, or how many would; and this machine by one timed product."""
    table = _table("time", "of the run", "cards")
    rate = rate_here(load.dtype) * HERE_EFFICIENCY
    table.add_row("here, by one product timed now", clock(one.flops / rate), "")
    for name, seconds in one.seconds.items():
        count = math.ceil((one.memory.peak - CONTEXT_BYTES) / (CARDS[name].memory - CONTEXT_BYTES))
        table.add_row(name, clock(seconds) if count == 1 else "–", "1" if count == 1 else f"at least {count}")
    return table


def _choices(outlined: Loaded, spec: AdapterSpec, load: Workload, steps: int) -> Table:
    rows = list(choices(outlined, spec, load, process=CONTEXT_BYTES, steps=steps, ranks=RANKS))
    table = _table("targets", "r", "trained", *(name.replace(" ", "\n") for name in rows[0].peaks))
    for row in rows:
        peaks = [f"{peak / GIB:,.1f}{_smallest(peak)}" for peak in row.peaks.values()]
        table.add_row(" + ".join(row.targets), str(row.r), f"{row.trainable / 1e6:,.1f} M", *peaks)
    return table


def _smallest(peak: int) -> str:
    return next((f" → {size}" for size in SIZES if peak <= size * GIB), "")


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table


def size_of(count: int) -> str:
    """Bytes in GiB, MiB or KiB; a card sold with 24 GB has 24 GiB."""
    for size, unit in ((GIB, "GiB"), (2**20, "MiB")):
        if count >= size / 10:
            return f"{count / size:,.2f} {unit}"
    return f"{count / 1024:,.1f} KiB"


def clock(seconds: float) -> str:
    """20 ms, 0.3 s, 40.0 min, 3.2 h or 12.0 days."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 0.1 else f"{1000 * seconds:.2g} ms"
