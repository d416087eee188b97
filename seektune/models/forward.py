"""The trunk on a ragged row: packed where the family allows it, else one sequence per forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel


def hidden_states(
    model: PreTrainedModel, packs: bool, input_ids: Tensor, position_ids: Tensor, cu_seqlens: Tensor
) -> Tensor:
    """(T, H) final hidden states of the sequences of one row, each as if it were alone.

    input_ids and position_ids (1, T), cu_seqlens (S + 1,), as in `types.Batch`; `packs` is the family's.
    """
    if packs:
        longest = int(cu_seqlens.diff().max())
        return _trunk(
            model,
            input_ids,
            position_ids,
            cu_seq_lens_q=cu_seqlens,
            cu_seq_lens_k=cu_seqlens,
            max_length_q=longest,
            max_length_k=longest,
        )
    parts = [
        _trunk(model, input_ids[:, start:end], position_ids[:, start:end])
        for start, end in pairwise(cu_seqlens.tolist())
    ]
    return torch.cat(parts)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """No gradients and no dropout within the block; the model's mode is as before afterwards."""
    was_training = model.training
    if was_training:  # a walk over all modules, which a step of decoding would notice
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if was_training:
            model.train()


def _trunk(
    model: PreTrainedModel, input_ids: Tensor, position_ids: Tensor, **boundaries: Tensor | int
) -> Tensor:
    # Without use_cache=False a row's boundaries do not reach attention.
    output = model.base_model(input_ids=input_ids, position_ids=position_ids, use_cache=False, **boundaries)
    hidden: Tensor = output.last_hidden_state[0]
    return hidden
