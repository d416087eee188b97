"""Linears of one input as one product: fewer and larger products are what a step of decoding gains from.

Shapes: T tokens, I in, O out of one linear, ΣO of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from seektune.adapters.wrap import AdaptedLinear
from seektune.errors import ModelError
from seektune.ops.few_rows_linear import few_rows_linear

Linear = nn.Linear | AdaptedLinear


class JointLinear:
    """The weights of such linears, laid side by side: the linears keep their parameters, as views of them."""

    def __init__(self, linears: Sequence[Linear]) -> None:
        self.widths = [linear.out_features for linear in linears]
        self.weight = _side_by_side([linear.weight for linear in linears])  # (ΣO, I)
        biases = [linear.bias for linear in linears if linear.bias is not None]
        self.bias = _side_by_side(biases) if biases else None  # (ΣO,)
        self._places = [linear.weight.data_ptr() for linear in linears]

    def __call__(self, x: Tensor, linears: Sequence[Linear]) -> Tensor:
        """x (T, I) → (T, ΣO) through the same linears, each with the low-rank terms that it has by now.

        Raises ModelError where a base weight was replaced since.
        """
        if [linear.weight.data_ptr() for linear in linears] != self._places:
            raise ModelError("the base's weights were replaced under an engine: make a new engine")
        y = few_rows_linear(x, self.weight, self.bias)
        for linear, part in zip(linears, y.split(self.widths, dim=-1), strict=True):
            if isinstance(linear, AdaptedLinear):
                linear.add_terms_(part, x)
        return y


def join(*linears: nn.Module) -> JointLinear | None:
    """Linears of one input as one; None unless all are plain, adapted or not, of one dtype and device."""
    bases = [linear.base_layer if isinstance(linear, AdaptedLinear) else linear for linear in linears]
    plain = [base for base in bases if type(base) is nn.Linear]
    kinds = {(b.in_features, b.weight.dtype, b.weight.device, b.bias is None) for b in plain}
    return JointLinear(plain) if len(plain) == len(bases) and len(kinds) == 1 else None


def _side_by_side(tensors: Sequence[nn.Parameter | Tensor]) -> Tensor:
    """One tensor of all rows, of which these become views, unless they are already."""
    if all(_adjoin(one, other) for one, other in pairwise(tensors)):
        first, rows = tensors[0], sum(map(len, tensors))
        return first.detach().as_strided((rows, *first.shape[1:]), first.stride(), first.storage_offset())
    joint = torch.cat([tensor.detach() for tensor in tensors])
    for tensor, part in zip(tensors, joint.split([*map(len, tensors)]), strict=True):
        tensor.data = part
    return joint


def _adjoin(one: Tensor, other: Tensor) -> bool:
    same = one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
    whole = one.is_contiguous() and other.is_contiguous()
    return same and whole and one.data_ptr() + one.nbytes == other.data_ptr()
