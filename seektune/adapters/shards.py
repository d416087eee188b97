"""Parameters that several processes hold in parts (FSDP2): this process's part, the whole, and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from seektune.adapters.attach import wrappers_of
from seektune.models.load import Loaded


def is_part(tensor: Tensor) -> bool:
    """Whether this process holds only a part of it."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, another as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    part: Tensor = tensor.to_local().detach()
    return part


def whole(tensor: Tensor) -> Tensor:
    """All of a sharded tensor, for which every process must ask; another as it is."""
    if not isinstance(tensor, DTensor):
        return tensor
    gathered: Tensor = tensor.full_tensor().detach()
    return gathered


def is_sharded(loaded: Loaded) -> bool:
    """Whether this process holds only a part of the model."""
    return any(map(is_part, loaded.model.parameters()))


@contextmanager
def whole_adapter(loaded: Loaded) -> Iterator[None]:
    """Every delta whole within the block, to save it; where it is sharded, every process must enter.

    The base stays as it is, and what is written to the deltas within the block is lost.
    """
    deltas = [d for wrapper in wrappers_of(loaded.model).values() for d in wrapper.deltas.values()]
    sharded = [delta._parameters for delta in deltas]
    for delta in deltas:
        delta._parameters = {
            name: p if p is None or not isinstance(p, DTensor) else nn.Parameter(whole(p), p.requires_grad)
            for name, p in delta._parameters.items()
        }
    try:
        yield
    finally:
        for delta, parameters in zip(deltas, sharded, strict=True):
            delta._parameters = parameters
