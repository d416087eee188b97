"""The low-rank delta of fused routed experts, for all of them or a chosen subset.

E experts, N of them adapted, T tokens, K choices, H hidden, I intermediate width, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seektune.adapters.lowrank import Init, draw, zeros


class ExpertsLowRank(nn.Module):
    """Adds `scaling · B A` to the two products of each chosen expert; the others allocate nothing.

    `gate_up_A` (N, R, H), `gate_up_B` (N, 2I, R), `down_A` (N, R, I), `down_B` (N, H, R), all float32;
    `slots` (E,) gives each expert's row, −1 for none. `reached` records which experts had a token whose
    gradient was not zero.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],  # E, H, I
        r: int,
        scaling: float,
        dropout: float = 0.0,
        experts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        count, hidden, width = shape
        self.experts = tuple(range(count)) if experts is None else tuple(sorted(experts))
        self.r = r
        self.scaling = scaling
        self.dropout = dropout
        self.reached: Tensor | None = None
        n = len(self.experts)
        self.gate_up_A = zeros(n, r, hidden)
        self.gate_up_B = zeros(n, 2 * width, r)
        self.down_A = zeros(n, r, width)
        self.down_B = zeros(n, hidden, r)
        slots = torch.full((count,), -1, dtype=torch.int64)
        slots[list(self.experts)] = torch.arange(n)
        self.slots: Tensor
        self.register_buffer("slots", slots, persistent=False)

    @property
    def complete(self) -> bool:
        """Whether every expert is adapted, so that slots are the identity."""
        return len(self.experts) == self.slots.shape[0]

    def reset(self, init: Init, generator: torch.Generator) -> None:
        """Draw A (and, for `init` False, B) from a CPU generator: the same numbers on every device."""
        for a, b in ((self.gate_up_A, self.gate_up_B), (self.down_A, self.down_B)):
            draw(a, self.r, init, generator)
            if init is False:
                draw(b, self.r, init, generator)

    @property
    def applied_dropout(self) -> float:
        """The dropout to apply now: 0 outside training."""
        return self.dropout if self.training else 0.0

    def record(self, top_k_index: Tensor, gradient: Tensor) -> None:
        """Note the experts chosen (T, K) by tokens whose gradient (T, H) is not zero."""
        count = self.slots.shape[0]
        if self.reached is None:
            self.reached = torch.zeros(count + 1, dtype=torch.bool, device=gradient.device)
        learning = (gradient != 0).any(-1, keepdim=True)
        # Row E takes the choices of other tokens, as well as an index of E, which means no expert.
        self.reached[torch.where(learning, top_k_index, count)] = True

    def reached_rows(self) -> Tensor:
        """(N,) bool: which adapted experts were reached since the record was last cleared."""
        if self.reached is None:
            return torch.zeros(len(self.experts), dtype=torch.bool)
        return self.reached[list(self.experts)].cpu()
