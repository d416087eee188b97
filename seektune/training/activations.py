"""Activation checkpointing while a run lasts: layers compute in the backward what they would have kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def checkpointed(model: Any, enabled: bool = True, *, every_n_layers: int = 1) -> Iterator[None]:
    """Checkpoint every n-th layer of `model`, by transformers' own means; afterwards all is as before.

    Gradients are the same bit for bit, dropout included. A layer below the lowest adapted one keeps nothing,
    checkpointed or not.
    """
    if not enabled:
        yield
        return
    flags = {module: module.gradient_checkpointing for module in model.modules() if _can(module)}
    functions = {module: getattr(module, "_gradient_checkpointing_func", None) for module in flags}
    model.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=every_n_layers)
    # Only reentrant checkpoints need inputs with a gradient; it would send the backward through every frozen
    # layer, and each of them would keep its activations for it.
    model.disable_input_require_grads()
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.gradient_checkpointing = flag
            module._gradient_checkpointing_func = functions[module]


def _can(module: Any) -> bool:
    return hasattr(module, "gradient_checkpointing")
