"""The one module that training prepares: trunk and loss in a single forward."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from seektune.models.load import Loaded
from seektune.ops.cross_entropy import cross_entropy
from seektune.types import IGNORE


class TrainStep(nn.Module):
    """Weighted token loss of one ragged row.

    One forward runs the trunk and the chunked cross-entropy: DDP and FSDP hook the forward of the module they
    wrap, so calling trunk and head apart would leave gradients unsynchronised.
    """

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.model = loaded.model
        self.packs = loaded.family.packs

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, cu_seqlens: Tensor, targets: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(loss sum (), weight sum (), log-probs (T,)) of the tensors of a `Batch`.

        Loss sum = −Σ weight·log p(target) over positions with a target; log-probs are 0 elsewhere.
        """
        trunk = self._packed if self.packs else self._one_by_one
        hidden = trunk(input_ids, position_ids, cu_seqlens)  # (T, H)
        head = self.model.get_output_embeddings().weight
        log_probs = cross_entropy(hidden, head, targets[0])
        loss_sum = -(weights[0] * log_probs).sum()
        return loss_sum, weights[targets != IGNORE].sum(), log_probs

    def _packed(self, input_ids: Tensor, position_ids: Tensor, cu_seqlens: Tensor) -> Tensor:
        longest = int(cu_seqlens.diff().max())
        output = self.model.base_model(
            input_ids=input_ids,
            position_ids=position_ids,
            cu_seq_lens_q=cu_seqlens,
            cu_seq_lens_k=cu_seqlens,
            max_length_q=longest,
            max_length_k=longest,
            use_cache=False,  # boundaries reach attention only without a cache
        )
        return output.last_hidden_state[0]

    def _one_by_one(self, input_ids: Tensor, position_ids: Tensor, cu_seqlens: Tensor) -> Tensor:
        outputs = [
            self.model.base_model(
                input_ids=input_ids[:, start:end],
                position_ids=position_ids[:, start:end],
                use_cache=False,
            ).last_hidden_state[0]
            for start, end in pairwise(cu_seqlens.tolist())
        ]
        return torch.cat(outputs)
