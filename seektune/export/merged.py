"""The base with an adapter added to its weights: a checkpoint like any other, for what knows no adapters."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from seektune.adapters.lowrank import LowRank
from seektune.adapters.store import Stored
from seektune.export.draft import draft_of
from seektune.models.load import Loaded, bar_in_a_terminal_only


def export_merged(loaded: Loaded, stored: Stored, out: Path) -> None:
    """Write the merged model and its tokenizer to `out`; `loaded` is the merged model from then on.

    `stored` is what `read_adapter` gave for this base, to which nothing is attached. Each weight is summed
    in float32 (float64 where it is float64) and rounded once to its own dtype. ConfigError when `out`
    exists.
    """
    with draft_of(out) as draft:
        _merge(loaded.model, stored)
        with bar_in_a_terminal_only():
            loaded.model.save_pretrained(draft)
        if loaded.tokenizer is not None:
            loaded.tokenizer.save_pretrained(draft)


@torch.no_grad()
def _merge(model: nn.Module, stored: Stored) -> None:
    for site, delta in stored.deltas.items():
        module = model.get_submodule(site)
        if isinstance(delta, LowRank):
            _add(cast(Tensor, module.weight), delta.scaling, delta.lora_A, delta.lora_B)
            continue
        gate_up, down = cast(Tensor, module.gate_up_proj), cast(Tensor, module.down_proj)
        for row, expert in enumerate(delta.experts):
            _add(gate_up[expert], delta.scaling, delta.gate_up_A[row], delta.gate_up_B[row])
            _add(down[expert], delta.scaling, delta.down_A[row], delta.down_B[row])


def _add(weight: Tensor, scaling: float, a: Tensor, b: Tensor) -> None:
    """`weight` (out, in) += s·B·A, in place."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    weight.copy_(weight.to(dtype) + scaling * (b.to(dtype) @ a.to(dtype)))
