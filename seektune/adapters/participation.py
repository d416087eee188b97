"""Which parts of an adapter took part in a step, and whether a gradient reached them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from seektune.adapters.attach import Delta
from seektune.adapters.lowrank import LowRank
from seektune.adapters.shards import whole


def clear(delta: Delta) -> None:
    """Forget what took part so far."""
    if isinstance(delta, LowRank):
        delta.ran = False
    else:
        delta.reached = None


def used(delta: Delta) -> list[int]:
    """The adapted experts that took part since the record was last cleared; of a linear [0] when it ran."""
    if isinstance(delta, LowRank):
        return [0] if delta.ran else []
    rows = delta.reached_rows().nonzero().flatten().tolist()
    return [delta.experts[row] for row in rows]


def gradient_problems(site: str, delta: Delta) -> Iterator[str]:
    """What is wrong with the gradients of the B of a delta, where it took part; every process must ask."""
    # Before anything that may differ between processes: each must ask for the whole of each gradient.
    gradients = {key: None if p.grad is None else whole(p.grad) for key, p in delta.named_parameters()}
    if not used(delta):
        return
    if isinstance(delta, LowRank):
        for _, problem in _bad_rows(gradients["lora_B"], torch.ones(1, dtype=torch.bool)):
            yield f"{site}.lora_B {problem}"
        return
    for key in ("gate_up_B", "down_B"):
        for row, problem in _bad_rows(gradients[key], delta.reached_rows()):
            yield f"{site}.{key} of expert {delta.experts[row]} {problem}"


def _bad_rows(gradient: Tensor | None, asked: Tensor) -> Iterator[tuple[int, str]]:
    """What is wrong with the gradient of a B that took part, by row of `asked` (N,); N = 1 for a linear."""
    rows = asked.nonzero().flatten().tolist()
    if gradient is None:
        yield from ((row, "has no gradient: it is frozen, or something cuts it off") for row in rows)
        return
    flat = gradient.reshape(asked.shape[0], -1)
    finite, moving = torch.isfinite(flat).all(1).tolist(), flat.any(1).tolist()
    for row in rows:
        if not finite[row]:
            yield row, "has a gradient that is not finite"
        elif not moving[row]:
            yield row, "has a gradient of zero: its output does not reach the loss"
