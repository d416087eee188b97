"""Where in the depth of the decoder a module or parameter stands."""

from __future__ import annotations

import math
from dataclasses import dataclass

from seektune.models.load import Loaded
from seektune.training.footprint import decoder_layers


@dataclass(frozen=True)
class Depth:
    """The decoder's layers: their number, and what the names of their parts begin with (`model.layers.`)."""

    layers: int
    prefix: str

    @classmethod
    def of(cls, loaded: Loaded) -> Depth:
        """The depth of a model's text decoder."""
        stack = decoder_layers(loaded)
        name = next(name for name, module in loaded.model.named_modules() if module is stack)
        return cls(len(stack), f"{name}.")

    def layer(self, name: str) -> int:
        """The layer a name belongs to, from 0; −1 for what stands before the first (a vision tower)."""
        return int(name.removeprefix(self.prefix).partition(".")[0]) if name.startswith(self.prefix) else -1

    def between(self, start: float, stop: float) -> range:
        """The layers from one fraction of the depth to another; halves are rounded up."""
        first, last = (math.floor(fraction * self.layers + 0.5) for fraction in (start, stop))
        return range(first, last)
