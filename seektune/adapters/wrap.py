"""A frozen base module and its named deltas, one of them active: base(x) + delta(x)."""

from __future__ import annotations

from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.lowrank import LowRank
from seektune.adapters.resident import ResidentExperts, ResidentLinears
from seektune.ops.expert_lora import expert_lora
from seektune.ops.lora_linear import lora_linear
from seektune.ops.multi_expert_lora import multi_expert_lora
from seektune.ops.multi_lora import ALL, Term, multi_lora_, term


class Experts(Protocol):
    """What transformers' fused experts modules have in common."""

    gate_up_proj: Tensor  # (E, 2I, H)
    down_proj: Tensor  # (E, H, I)

    def _apply_gate(self, gate_up: Tensor) -> Tensor: ...


class AdaptedLinear(nn.Module):
    """Stands where a linear stood: x (…, in) → base(x) + the active delta's term.

    `weight`, `bias`, `in_features` and `out_features` remain readable for code that expects a linear.
    """

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.deltas = nn.ModuleDict()
        self.active: str | None = None
        self.resident: ResidentLinears | None = None

    @property
    def mixed(self) -> bool:
        """Whether the forward under way mixes resident adapters, so that no delta is active."""
        return self.resident is not None and self.resident.current.mix is not None

    @property
    def weight(self) -> Tensor:
        """The base's weight (out, in)."""
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        """The base's bias (out,), or None."""
        return self.base_layer.bias

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return self.base_layer.in_features

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.base_layer.out_features

    def take_delta(self) -> LowRank | None:
        """The active delta, noted as used where gradients are recorded; None where none is active.

        Code that computes this linear without calling it (a fused projection) must fetch the delta here.
        """
        if self.active is None:
            return None
        delta = self.deltas[self.active]
        assert isinstance(delta, LowRank)
        delta.ran |= torch.is_grad_enabled()
        return delta

    def terms(self) -> list[Term]:
        """The low-rank terms of the forward under way, resident or of the active delta, in the base's dtype.

        For code that computes this linear in another form, such as attention with an absorbed projection.
        """
        if self.resident is not None and self.mixed:
            return self.resident.terms()
        delta = self.take_delta()
        if delta is None:
            return []
        dtype = self.weight.dtype
        b = delta.lora_B.to(torch.promote_types(dtype, torch.float32)) * delta.scaling
        return [term(ALL, delta.lora_A.to(dtype)[None], b.to(dtype).t()[None])]

    def add_terms_(self, y: Tensor, x: Tensor) -> None:
        """Add the terms to y (T, out), the base's own output of x (T, in); no gradients."""
        resident = self.resident
        if resident is not None and resident.current.mix is not None:
            resident.add_(y, x)
        elif self.active is not None:
            multi_lora_(y, x, self.terms())

    def without_gradients(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out): the base and, added in place, the terms of the forward under way."""
        y: Tensor = self.base_layer(x)
        self.add_terms_(y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1]))
        return y

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) → (…, out)."""
        if self.mixed:
            return self.without_gradients(x)
        delta = self.take_delta()
        if delta is None:
            output: Tensor = self.base_layer(x)
            return output
        return lora_linear(
            x, self.weight, self.bias, delta.lora_A, delta.lora_B, delta.scaling, delta.applied_dropout
        )


class AdaptedExperts(nn.Module):
    """The child `adapter` of a fused experts module, called by our experts implementation when active."""

    def __init__(self, experts: Experts) -> None:
        super().__init__()
        self.deltas = nn.ModuleDict()
        self.active: str | None = None
        self.resident: ResidentExperts | None = None
        self.swiglu = _is_swiglu(experts)

    @property
    def at_work(self) -> bool:
        """Whether the base alone is not enough: the mix has a row for here, or a delta is active."""
        if self.resident is not None and self.resident.current.mix is not None:
            return self.resident.at_work
        return self.active is not None

    def forward(self, experts: Experts, hidden: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """hidden (T, H), top_k_index and top_k_weights (T, K) → (T, H) through base and deltas."""
        gate = None if self.swiglu else experts._apply_gate
        if self.resident is not None and self.resident.current.mix is not None:
            slots, loras = self.resident.slots(len(hidden)), self.resident.loras
            base = (experts.gate_up_proj, experts.down_proj)
            return multi_expert_lora(hidden, top_k_index, top_k_weights, *base, slots, loras, gate)
        assert self.active is not None
        delta = self.deltas[self.active]
        assert isinstance(delta, ExpertsLowRank)
        output = expert_lora(
            hidden,
            top_k_index,
            top_k_weights,
            experts.gate_up_proj,
            experts.down_proj,
            delta.gate_up_A,
            delta.gate_up_B,
            delta.down_A,
            delta.down_B,
            delta.scaling,
            slots=None if delta.complete else delta.slots,
            gate=gate,
            dropout=delta.applied_dropout,
        )
        if output.requires_grad:
            # A token without loss behind it reaches an expert but teaches it nothing: only backward knows.
            output.register_hook(partial(delta.record, top_k_index))
        return output


def _is_swiglu(experts: Experts) -> bool:
    """Whether the class's own gate is silu(gate) · up, tried far enough out to meet any clamp."""
    probe = torch.linspace(-200, 200, 41)
    gate_up = torch.cartesian_prod(probe, probe)  # (41², 2): one gate and one up channel
    gate, up = gate_up.chunk(2, dim=-1)
    return torch.equal(experts._apply_gate(gate_up), F.silu(gate) * up)
