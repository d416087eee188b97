"""Which of how many processes this one is."""

from __future__ import annotations

import torch
from accelerate import PartialState


def world() -> tuple[int, int]:
    """(rank, number of processes), as `accelerate launch` or `torchrun` set them up; (0, 1) when alone.

    Joins the process group on the first call: `data.batches` needs both numbers before training starts.
    """
    # Without cpu=True accelerate ignores torchrun's variables on a machine without an accelerator, and every
    # process would believe to be alone.
    state = PartialState(cpu=not torch.accelerator.is_available())
    return state.process_index, state.num_processes
