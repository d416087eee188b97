"""The one module that training prepares: trunk and loss in a single forward."""

from __future__ import annotations

from torch import Tensor, nn

from seektune.models.forward import hidden_states
from seektune.models.load import Loaded
from seektune.ops.cross_entropy import cross_entropy
from seektune.types import IGNORE, Batch


class TrainStep(nn.Module):
    """Weighted token loss of one ragged row.

    One forward runs the trunk and the chunked cross-entropy: DDP and FSDP hook the forward of the module they
    wrap, so calling trunk and head apart would leave gradients unsynchronised. `_no_split_modules` names the
    classes that FSDP shards one by one, as accelerate asks a transformers model for them: the decoder layers.
    """

    def __init__(self, loaded: Loaded) -> None:
        super().__init__()
        self.model = loaded.model
        self.packs = loaded.family.packs
        classes = {type(module).__name__ for module in loaded.model.modules()}
        self._no_split_modules = sorted(classes & set(loaded.model._no_split_modules or ()))

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, cu_seqlens: Tensor, targets: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(loss sum (), weight sum (), log-probs (T,)) of the tensors of a `Batch`.

        Loss sum = −Σ weight·log p(target) over positions with a target; log-probs are 0 elsewhere.
        """
        hidden = hidden_states(self.model, self.packs, input_ids, position_ids, cu_seqlens)  # (T, H)
        log_probs = cross_entropy(hidden, self.model.get_output_embeddings().weight, targets[0])
        loss_sum = -(weights[0] * log_probs).sum()
        return loss_sum, weights[targets != IGNORE].sum(), log_probs


def scored(step: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """What a TrainStep, wrapped by DDP or FSDP or not, says of a batch on its device."""
    outputs: tuple[Tensor, Tensor, Tensor] = step(
        batch.input_ids, batch.position_ids, batch.cu_seqlens, batch.targets, batch.weights
    )
    return outputs
