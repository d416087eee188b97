"""The forms that a model's modules take during a step: attention over pages, linears for few rows.

Only the class of a module object is exchanged, for the time of one forward: whoever else holds the model, to
train it or to attach adapters, finds it as it was, but for where some weights lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seektune.adapters.fused import FusedMLP
from seektune.adapters.wrap import AdaptedLinear
from seektune.generation.heads import PagedAttention
from seektune.generation.joint import JointLinear, join
from seektune.generation.latent import LatentAttention
from seektune.ops.few_rows_linear import few_rows_linear, helps


class Form(NamedTuple):
    """A module and the form it takes."""

    module: nn.Module
    form: type[nn.Module]
    joint: JointLinear | None = None  # its attribute `joint` in that form


class FewRowsLinear(nn.Linear):
    """A linear by `ops.few_rows_linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(…, I) → (…, O)."""
        return few_rows_linear(input, self.weight, self.bias)


class MixedLinear(AdaptedLinear):
    """An adapted linear with little around its products, of which a step of decoding has hundreds."""

    forward = AdaptedLinear.without_gradients


class StepMLP(nn.Module):
    """A SwiGLU MLP with one product for gate and up."""

    gate_proj: Any
    up_proj: Any
    down_proj: nn.Module
    joint: JointLinear

    def forward(self, x: Tensor) -> Tensor:
        """(…, H) → (…, H)."""
        rows = x.reshape(-1, x.shape[-1])
        gate, up = self.joint(rows, (self.gate_proj, self.up_proj)).chunk(2, dim=-1)
        y: Tensor = self.down_proj(F.silu(gate).mul_(up))
        return y.view(*x.shape[:-1], -1)


class StepNorm(nn.Module):
    """RMSNorm in one call: no gradients, so nothing needs to be kept."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, H) → (…, H)."""
        return F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)


def step_forms(model: nn.Module) -> list[Form]:
    """The modules of a model that have a form for steps, and it; weights to be joined are laid together."""
    forms: list[Form] = []
    module: Any
    for module in model.modules():
        name = type(module).__name__
        if name in _MLPS and FusedMLP.fits(module) and (joint := join(module.gate_proj, module.up_proj)):
            forms.append(Form(module, StepMLP, joint))
        elif isinstance(module, FusedMLP):
            forms.append(Form(module, module.unfused))  # it calls its linears, which have forms of their own
        elif type(module) is nn.Linear:
            forms += [Form(module, FewRowsLinear)] if helps(module.weight) else []
        elif name in _NORMS:
            # In float64 transformers' norms round to float32, and answers are to be theirs.
            forms += [Form(module, StepNorm)] if module.weight.dtype == torch.float32 else []
        elif name in _HEADS:
            forms.append(Form(module, PagedAttention, join(module.q_proj, module.k_proj, module.v_proj)))
        elif (form := _FORMS.get(name)) is not None:
            forms.append(Form(module, form))
    return forms


@contextmanager
def in_forms(forms: Sequence[Form]) -> Iterator[None]:
    """Within the block the modules, same objects with all they hold, run these forms."""
    classes = [module.__class__ for module, _, _ in forms]
    # nn.Module's __setattr__ looks for parameters first, which a hundred modules a step would notice.
    for module, form, joint in forms:
        object.__setattr__(module, "__class__", form)
        module.__dict__["joint"] = joint
    try:
        yield
    finally:
        for (module, _, _), own in zip(forms, classes, strict=True):
            object.__setattr__(module, "__class__", own)
            del module.__dict__["joint"]


_NORMS = ("LlamaRMSNorm", "Qwen2RMSNorm", "DeepseekV2RMSNorm", "DeepseekV3RMSNorm", "FusedNorm")

_MLPS = ("LlamaMLP", "Qwen2MLP", "DeepseekV2MLP", "DeepseekV3MLP", "FusedMLP")

_HEADS = ("LlamaAttention", "Qwen2Attention", "FusedAttention")

_FORMS: dict[str, type[nn.Module]] = {
    "AdaptedLinear": MixedLinear,
    "DeepseekV2Attention": LatentAttention,
    "DeepseekV3Attention": LatentAttention,
    "FusedLatentAttention": LatentAttention,
}
"""By the name of transformers' or our class."""
