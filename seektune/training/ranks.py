"""The processes of a run together: sums and values of all of them, at no cost where there is only one."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from seektune.training.world import world


class Ranks:
    """Every method must be called by all processes, and gives all of them the same."""

    def __init__(self, accelerator: Accelerator, device: torch.device) -> None:
        self.rank, self.size = world()
        self._accelerator = accelerator
        self._device = device

    def sum(self, *values: float) -> list[float]:
        """Each value summed over the processes, in float64."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self._device)
        totals: list[float] = self._accelerator.reduce(sums, "sum").tolist()
        return totals

    def every(self, value: Any) -> list[Any]:
        """The value of each process, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = gather_object([value])
        return values
