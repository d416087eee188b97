"""The highest moment of a run: which one it is, and what fills the memory then."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from seektune.adapters.attach import chosen_sites
from seektune.config.adapter import AdapterSpec
from seektune.models.load import Loaded
from seektune.training.footprint import (
    FINE,
    Terms,
    Workload,
    activations,
    adapter_values,
    decoder_layers,
    head,
    terms,
    transient,
    width_of,
)

SLACK = {"cpu": 0.12, "cuda": 0.02}
"""Memory that the allocator holds in pieces too small to use, as a share of all that a step allocates and
frees again: glibc's as seen in benchmarks/estimate.py, a GPU's is a guess."""
PIECES = (0.3, 0.75)
"""Share of the routed experts that lies about in pieces while a CPU joins them, as stored or converted."""
PRIMITIVES, PRIMITIVE_BYTES = 1024, 1_200_000
"""oneDNN keeps the code of so many shapes of half-precision products on a CPU, and the bytes of each: 0.77 MB
of its own, and the heap it pins around them."""


@dataclass(frozen=True)
class Memory:
    """Bytes at the highest moment of a run, part by part, and which moment that is."""

    moment: str  # loading, backward or update
    parts: Mapping[str, int]

    @property
    def peak(self) -> int:
        """All parts."""
        return sum(self.parts.values())


def memory(
    outlined: Loaded, spec: AdapterSpec, load: Workload, *, process: int, stored: torch.dtype, steps: int
) -> Memory:
    """The highest of three moments: loading, a backward that begins, an update; two steps at least.

    `process` are the bytes of the interpreter or GPU context, `stored` is the dtype of the checkpoint. Raises
    TargetError as `attach` does.
    """
    added = terms(outlined, spec)
    weights = sum(parameter.numel() for parameter in outlined.model.parameters())
    adapters = FINE * sum(
        adapter_values(site.module, experts, spec.r) for site, experts in chosen_sites(outlined, spec)
    )
    mapped, loading = _file(outlined, load, stored, weights)
    base = {"process": process, "weights": weights * load.itemsize, "file": mapped}
    resting = base | {
        "adapters": adapters,
        "optimiser": 2 * adapters,
        "kernels": _kernels(outlined, added, load, steps),
        "checkpoint": 3 * adapters if load.saves and load.device == "cpu" else 0,
    }
    moments = [
        Memory("loading", base | {"file": loading}),
        Memory("backward", resting | _backward(outlined, added, load, adapters)),
        Memory("update", resting | {"gradients": adapters}),
    ]
    return max(moments, key=lambda moment: moment.peak)


def _backward(outlined: Loaded, added: Terms, load: Workload, adapters: int) -> dict[str, int]:
    """What comes on top where the backward needs most: inside the loss, or at one of the layers."""
    layers, kept = decoder_layers(outlined), activations(outlined, added, load)
    loss, logits = head(outlined, load)
    width = width_of(layers[0])
    inputs = load.tokens * width * load.itemsize
    wide = 2 * 3 * FINE * width * load.tokens if load.itemsize < FINE else 0  # norms compute in float32
    held = freed = 0  # for the layers so far; by all of them
    moments = []
    for number, (layer, size) in enumerate(zip(layers, kept, strict=True)):
        again = size if load.recomputes(number) else 0
        held += inputs if again else size
        needed = again + transient(layer, added, load)
        freed += size + needed + wide
        moments.append((held, needed))
    at_layer, needed = max(moments, key=sum)
    in_loss = held + logits > at_layer + needed
    return {
        "activations": (held if in_loss else at_layer) + loss,
        "logits": logits if in_loss else 0,
        "workspace": 0 if in_loss else needed,
        "gradients": adapters if load.gradient_accumulation_steps > 1 else 0,
        "allocator": round(SLACK[load.device] * freed),
    }


def _file(outlined: Loaded, load: Workload, stored: torch.dtype, weights: int) -> tuple[int, int]:
    """On a CPU, bytes of the checkpoint's file that lie beside the weights: all along, and while loading.

    Weights in the stored dtype are the mapped file itself, but fused experts are copies of it; converted
    weights all are, and the file goes once they are made.
    """
    if load.device != "cpu":
        return 0, 0
    experts = sum(
        parameter.numel()
        for layer in decoder_layers(outlined)
        for parameter in getattr(layer.mlp, "experts", torch.nn.Module()).parameters()
    )
    pieces = round(PIECES[stored != load.dtype] * experts * load.itemsize)
    if stored != load.dtype:
        return 0, weights * stored.itemsize + pieces
    return experts * load.itemsize, experts * load.itemsize + pieces


def _kernels(outlined: Loaded, added: Terms, load: Workload, steps: int) -> int:
    """oneDNN's cache on a CPU in half precision: each number of rows that an expert meets is a new shape."""
    if load.device != "cpu" or load.dtype not in (torch.bfloat16, torch.float16):
        return 0
    experts = [layer.mlp.experts for layer in decoder_layers(outlined) if hasattr(layer.mlp, "experts")]
    shapes = sum(len(module.down_proj) * (16 if added.on(module) else 4) for module in experts)
    return round(PRIMITIVE_BYTES * PRIMITIVES * (1 - math.exp(-shapes * steps / PRIMITIVES)))
