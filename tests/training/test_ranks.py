"""What several processes say is checked by the two-process tests of the loop."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from seektune.training.ranks import Ranks


def test_one_process_alone_gathers_itself() -> None:
    ranks = Ranks(Accelerator(cpu=True), torch.device("cpu"))
    assert (ranks.rank, ranks.size) == (0, 1)
    assert ranks.sum(1.5, 2) == [1.5, 2]
    assert ranks.every({"rows": (3, 4)}) == [{"rows": (3, 4)}]
