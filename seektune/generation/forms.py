"""The forms that a model's modules take during a step: latent attention absorbed, linears for few rows.

Only the class of a module object is exchanged, for the time of one forward: whoever else holds the model, to
train it or to attach adapters, finds it as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from seektune.generation.latent import LatentAttention
from seektune.ops.few_rows_linear import few_rows_linear

Form = tuple[nn.Module, type[nn.Module]]


class FewRowsLinear(nn.Linear):
    """A linear by `ops.few_rows_linear`."""

    def forward(self, input: Tensor) -> Tensor:
        """(…, I) → (…, O)."""
        return few_rows_linear(input, self.weight, self.bias)


def step_forms(model: nn.Module) -> list[Form]:
    """The modules of a model that have a form for steps, and that form."""
    return [
        (module, form)
        for module in model.modules()
        if (form := _FORMS.get(type(module).__name__)) is not None
    ]


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
    "DeepseekV2Attention": LatentAttention,
    "DeepseekV3Attention": LatentAttention,
    "FusedLatentAttention": LatentAttention,
}
"""By the name of transformers' or our class."""
