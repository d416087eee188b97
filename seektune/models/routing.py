"""Which experts tokens use: the routers' own choices, observed by hooks on one model instance."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from seektune.errors import ModelError
from seektune.models.forward import evaluating, hidden_states
from seektune.models.load import Loaded
from seektune.types import Batch, RoutingProfile

Number = TypeVar("Number", int, float)

_LAYER = re.compile(r"\.layers\.(\d+)\.")


class RoutingRecord:
    """Loads observed so far; they stay on the model's device until `profile` reads them."""

    def __init__(self) -> None:
        self._counts: dict[int, Tensor] = {}  # layer → (E,)
        self._weights: dict[int, Tensor] = {}
        self._tokens: dict[int, int] = {}

    def add(self, layer: int, experts: int, chosen: Tensor, weights: Tensor) -> None:
        """Count the choices (T, K) of one forward; an index of `experts` or more means no expert."""
        flat = chosen.detach().reshape(-1)
        counts = torch.bincount(flat, minlength=experts)[:experts]
        summed = torch.bincount(flat, weights.detach().reshape(-1).double(), minlength=experts)[:experts]
        self._counts[layer] = self._counts.get(layer, 0) + counts
        self._weights[layer] = self._weights.get(layer, 0) + summed
        self._tokens[layer] = self._tokens.get(layer, 0) + chosen.numel() // chosen.shape[-1]

    def profile(self) -> RoutingProfile:
        """What was observed so far."""
        layers = sorted(self._counts)
        return RoutingProfile(
            counts={layer: tuple(self._counts[layer].tolist()) for layer in layers},
            weights={layer: tuple(self._weights[layer].tolist()) for layer in layers},
            tokens=max(self._tokens.values(), default=0),
        )


@contextmanager
def recorded_routing(loaded: Loaded) -> Iterator[RoutingRecord]:
    """Record the routers' choices in every forward within the block, recomputed ones too.

    Raises ModelError where the model has no routed experts.
    """
    record, found = RoutingRecord(), routers(loaded)
    if not found:
        raise ModelError(f"{loaded.source} has no routed experts, so there is no routing to record")
    handles = [router.register_forward_hook(_observer(record, layer)) for layer, router in found.items()]
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def routing_profile(loaded: Loaded, batches: Iterable[Batch]) -> RoutingProfile:
    """The experts that `batches` use, with the adapter that is active, without dropout."""
    with evaluating(loaded.model), recorded_routing(loaded) as record:
        for batch in batches:
            row = batch.to(loaded.device)
            hidden_states(loaded.model, loaded.family.packs, row.input_ids, row.position_ids, row.cu_seqlens)
    return record.profile()


def joined(profiles: Sequence[RoutingProfile]) -> RoutingProfile:
    """What several processes observed, as one."""
    first = profiles[0]
    return RoutingProfile(
        counts={layer: _added(profile.counts[layer] for profile in profiles) for layer in first.counts},
        weights={layer: _added(profile.weights[layer] for profile in profiles) for layer in first.weights},
        tokens=sum(profile.tokens for profile in profiles),
    )


def routers(loaded: Loaded) -> dict[int, nn.Module]:
    """The router of each layer that has one, found by the family's router path."""
    return {
        int(match[1]): module
        for name, module in loaded.model.named_modules()
        if loaded.family.router and re.fullmatch(loaded.family.router, name)
        if (match := _LAYER.search(name))
    }


def _added(rows: Iterable[tuple[Number, ...]]) -> tuple[Number, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))


def _observer(record: RoutingRecord, layer: int) -> Any:
    def observe(_: nn.Module, __: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
        logits, weights, chosen = output  # (T, E), (T, K), (T, K) in every generation
        record.add(layer, logits.shape[-1], chosen, weights)

    return observe
