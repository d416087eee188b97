"""The forms that a model's modules take during a step: attention over pages, linears for few rows.

Only the class of a module object is exchanged, for the time of one forward: whoever else holds the model, to
train it or to attach adapters, finds it as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seektune.adapters.fused import FusedMLP
from seektune.adapters.wrap import AdaptedLinear
from seektune.generation.heads import PagedAttention
from seektune.generation.latent import LatentAttention
from seektune.ops.few_rows_linear import WIDE, few_rows_linear
from seektune.ops.multi_lora import multi_lora_

Form = tuple[nn.Module, type[nn.Module]]


class FewRowsLinear(nn.Linear):
    """A linear by `ops.few_rows_linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(…, I) → (…, O)."""
        return few_rows_linear(input, self.weight, self.bias)


class MixedLinear(AdaptedLinear):
    """An adapted linear with little around its products, of which a step of decoding has hundreds."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) → (…, O)."""
        y: Tensor = self.base_layer(x)
        resident = self.resident
        if resident is not None and resident.current.mix is not None:
            return resident.add_(y, x)
        multi_lora_(y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1]), self.terms())
        return y


class StepNorm(nn.Module):
    """RMSNorm in one call: no gradients, so nothing needs to be kept."""

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(…, H) → (…, H)."""
        return F.rms_norm(hidden_states, self.weight.shape, self.weight, self.variance_epsilon)


def step_forms(model: nn.Module) -> list[Form]:
    """The modules of a model that have a form for steps, and that form."""
    forms: list[Form] = []
    for module in model.modules():
        if isinstance(module, FusedMLP):
            forms.append((module, module.unfused))  # it calls its linears, which have forms of their own
        elif type(module) is nn.Linear:
            forms += [(module, FewRowsLinear)] if module.out_features >= WIDE else []
        elif type(module).__name__ in _NORMS:
            # In float64 transformers' norms round to float32, and answers are to be theirs.
            forms += [(module, StepNorm)] if module.weight.dtype == torch.float32 else []
        elif (form := _FORMS.get(type(module).__name__)) is not None:
            forms.append((module, form))
    return forms


@contextmanager
def in_forms(forms: Sequence[Form]) -> Iterator[None]:
    """Within the block the modules, same objects with all they hold, run these forms."""
    modules: list[Any] = [module for module, _ in forms]
    classes = [module.__class__ for module in modules]
    # nn.Module's __setattr__ looks for parameters first, which a hundred modules a step would notice.
    for module, form in forms:
        object.__setattr__(module, "__class__", form)
    try:
        yield
    finally:
        for module, own in zip(modules, classes, strict=True):
            object.__setattr__(module, "__class__", own)


_NORMS = ("LlamaRMSNorm", "Qwen2RMSNorm", "DeepseekV2RMSNorm", "DeepseekV3RMSNorm", "FusedNorm")

_FORMS: dict[str, type[nn.Module]] = {
    "AdaptedLinear": MixedLinear,
    "LlamaAttention": PagedAttention,
    "Qwen2Attention": PagedAttention,
    "FusedAttention": PagedAttention,
    "DeepseekV2Attention": LatentAttention,
    "DeepseekV3Attention": LatentAttention,
    "FusedLatentAttention": LatentAttention,
}
"""By the name of transformers' or our class."""
