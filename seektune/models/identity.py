"""The identity of a base model: what an adapter was trained on, whatever the base is loaded as.

sha256 over the name, dtype, shape and the first, middle and last 64 KiB of every tensor as stored, in the
order of their names: independent of sharding, load dtype and quantisation, and seconds on 100 GB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from seektune.models.checkpoint import stored_tensors

_BLOCK = 64 * 1024  # bytes
_SPELLING = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}


def checkpoint_identity(folder: Path | str) -> str:
    """Identity (64 hex digits) of a checkpoint folder; ModelError when its files are damaged."""
    digest = hashlib.sha256()
    for tensor in stored_tensors(Path(folder)):
        digest.update(_line(tensor.name, tensor.dtype, tensor.shape))
        with tensor.file.open("rb", buffering=0) as stream:
            for offset, size in _blocks(tensor.end - tensor.start):
                stream.seek(tensor.start + offset)
                digest.update(stream.read(size))
    return digest.hexdigest()


def model_identity(model: PreTrainedModel) -> str:
    """Identity (64 hex digits) of a model without a checkpoint: of what `save_pretrained` would write."""
    digest = hashlib.sha256()
    for name, tensor in sorted(revert_weight_conversion(model, model.state_dict()).items()):
        digest.update(_line(name, _SPELLING[tensor.dtype], tuple(tensor.shape)))
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        for offset, size in _blocks(len(content)):
            digest.update(content[offset : offset + size])
    return digest.hexdigest()


def _line(name: str, dtype: str, shape: tuple[int, ...]) -> bytes:
    return f"{name} {dtype} {list(shape)}\n".encode()


def _blocks(size: int) -> Iterator[tuple[int, int]]:
    """(offset, size) of the first, middle and last block; the whole when they would overlap."""
    if size <= 3 * _BLOCK:
        yield 0, size
        return
    yield from ((offset, _BLOCK) for offset in (0, (size - _BLOCK) // 2, size - _BLOCK))
