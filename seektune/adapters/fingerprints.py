"""Proofs that tensors did not move: sha256 of few bytes, an integer checksum of many."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

_WORDS = 1 << 18  # 2 MiB of int64: fits a core's cache


def sha256(tensor: Tensor) -> str:
    """sha256 (64 hex digits) of a tensor's bytes."""
    return hashlib.sha256(_bytes(tensor.cpu()).numpy().tobytes()).hexdigest()


def checksums(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Σ wᵢ xᵢ mod 2⁶⁴ over the bits of each tensor as 64-bit words, with fixed odd weights.

    Any single changed word changes it, and so does an exchange of words; several GB per second and core.
    """
    weights = torch.randint(-(2**62), 2**62, (_WORDS,), generator=torch.Generator().manual_seed(0)) * 2 + 1
    placed = {device: weights.to(device) for device in {tensor.device for tensor in tensors.values()}}
    return {name: _checksum(tensor, placed[tensor.device]) for name, tensor in tensors.items()}


def _checksum(tensor: Tensor, weights: Tensor) -> int:
    content = _bytes(tensor)
    whole = content.numel() // 8 * 8
    tail = torch.nn.functional.pad(content[whole:], (0, 8 - content.numel() + whole))
    blocks = [*content[:whole].view(torch.int64).split(_WORDS), tail.view(torch.int64)]
    sums = torch.stack([(block * weights[: block.numel()]).sum() for block in blocks])
    return int((sums * weights[: sums.numel()]).sum())


def _bytes(tensor: Tensor) -> Tensor:
    """The tensor's content as uint8 (numel · itemsize,); copies only what is not contiguous."""
    flat = tensor.detach().contiguous().flatten()
    content = flat.view(torch.uint8)
    return content.clone() if content.storage_offset() % 8 else content  # 64-bit words need alignment
