"""The forms that a model's modules take during a step: attention over pages, linears for few rows.

Only the class of a module object is exchanged, for the time of one forward: whoever else holds the model, to
train it or to attach adapters, finds it as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from seektune.adapters.fused import FusedMLP
from seektune.adapters.wrap import AdaptedLinear
from seektune.generation.heads import PagedAttention
from seektune.generation.latent import LatentAttention
from seektune.ops.few_rows_linear import few_rows_linear
from seektune.ops.multi_lora import multi_lora_

Form = tuple[nn.Module, type[nn.Module]]


class FewRowsLinear(nn.Linear):
    """A linear by `ops.few_rows_linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(…, I) → (…, O)."""
        return few_rows_linear(input, self.weight, self.bias)


class FewRowsAdaptedLinear(AdaptedLinear):
    """An adapted linear whose base is one for few rows."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) → (…, O)."""
        if self.mixed:
            return super().forward(x)
        y: Tensor = self.base_layer(x)
        multi_lora_(y.view(-1, y.shape[-1]), x.reshape(-1, x.shape[-1]), self.terms())
        return y


def step_forms(model: nn.Module) -> list[Form]:
    """The modules of a model that have a form for steps, and that form."""
    forms: list[Form] = []
    for module in model.modules():
        if isinstance(module, FusedMLP):
            forms.append((module, module.unfused))  # it calls its linears, which have forms of their own
        elif (form := _FORMS.get(type(module).__name__)) is not None:
            forms.append((module, form))
    return forms


@contextmanager
def in_forms(forms: Sequence[Form]) -> Iterator[None]:
    """Within the block the modules, same objects with all they hold, run these forms."""
    modules: list[Any] = [module for module, _ in forms]
    classes = [module.__class__ for module in modules]
    for module, form in forms:
        module.__class__ = form
    try:
        yield
    finally:
        for module, own in zip(modules, classes, strict=True):
            module.__class__ = own


_FORMS: dict[str, type[nn.Module]] = {
    "Linear": FewRowsLinear,
    "AdaptedLinear": FewRowsAdaptedLinear,
    "LlamaAttention": PagedAttention,
    "Qwen2Attention": PagedAttention,
    "FusedAttention": PagedAttention,
    "DeepseekV2Attention": LatentAttention,
    "DeepseekV3Attention": LatentAttention,
    "FusedLatentAttention": LatentAttention,
}
"""By the name of transformers' or our class."""
