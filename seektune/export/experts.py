"""The delta of chosen experts as one of all experts, for formats that know no subset."""

from __future__ import annotations

import torch

from seektune.adapters.experts import ExpertsLowRank


def every_expert(delta: ExpertsLowRank) -> ExpertsLowRank:
    """The same delta with a row for each expert; A and B of those not chosen are 0."""
    if delta.complete:
        return delta
    shape = (delta.slots.shape[0], delta.gate_up_A.shape[-1], delta.down_A.shape[-1])
    whole = ExpertsLowRank(shape, delta.r, delta.scaling, delta.dropout)
    whole.to(delta.gate_up_A.device).train(delta.training)
    with torch.no_grad():
        for target, source in zip(whole.parameters(), delta.parameters(), strict=True):
            target[list(delta.experts)] = source
    return whole
