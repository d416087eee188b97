"""The tensors of a checkpoint folder as its safetensors headers declare them, checked against the files."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seektune.errors import ModelError

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_MAX_HEADER = 100_000_000  # bytes, the format's own bound
_AGAIN = "the file is damaged or its download broke off: fetch it again"


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as stored: bytes start to end of a file."""

    name: str
    dtype: str  # safetensors' spelling: F32, BF16, F8_E4M3, …
    shape: tuple[int, ...]
    file: Path
    start: int
    end: int

    @property
    def numel(self) -> int:
        """Number of stored elements."""
        count = 1
        for size in self.shape:
            count *= size
        return count


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a checkpoint folder; ModelError when it is missing or no JSON object."""
    path = folder / "config.json"
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} is an adapter folder, not a base model: give its run's folder, or its base with "
            "--adapter FOLDER (load_adapter in Python)"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder} has no config.json, so it is no checkpoint folder") from None
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelError(f"{path} names no model_type, so the architecture is unknown")
    return config


def stored_tensors(folder: Path) -> list[StoredTensor]:
    """Every tensor of the checkpoint, sorted by name.

    Reads headers only. Raises ModelError for pickled weights, missing shards and damaged files.
    """
    tensors = [tensor for file in _weight_files(folder) for tensor in _read_header(file)]
    return sorted(tensors, key=lambda tensor: tensor.name)


def dequantised_bytes(folder: Path, itemsize: int) -> int:
    """Bytes of an fp8 checkpoint's tensors once they are plain, at `itemsize` bytes a value."""
    values = {"F8_E4M3": 1, "F8_E5M2": 1, "I8": 2}  # per stored element; V4 packs two fp4 values in an int8
    return sum(
        tensor.numel * values[tensor.dtype] * itemsize
        if tensor.dtype in values
        else tensor.end - tensor.start
        for tensor in stored_tensors(folder)
        if not tensor.name.endswith(("_scale_inv", ".scale"))  # used up by dequantising
    )


def _weight_files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} is not a safetensors index ({error!r}): {_AGAIN}") from None
        missing = sorted(name for name in names if not (folder / name).is_file())
        if missing:
            raise ModelError(
                f"{folder} lacks {len(missing)} of {len(names)} shards ({', '.join(missing[:3])}): fetch them"
            )
        return [folder / name for name in sorted(names)]
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ModelError(
            f"{folder / pickles[0]} is a pickle file, which can run code when read, so only safetensors are "
            "loaded: take the model's safetensors revision, or convert it in a sandbox with save_pretrained"
        )
    raise ModelError(f"{folder} has neither {_SINGLE} nor {_INDEX}")


def _read_header(file: Path) -> Iterator[StoredTensor]:
    """8 bytes of little-endian header size, a JSON header, then the data its offsets point into."""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > _MAX_HEADER:
                raise ValueError
            header: dict[str, Any] = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        tensors = [_tensor(file, 8 + length, name, entry) for name, entry in header.items()]
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{file} has no sound safetensors header: {_AGAIN}") from None
    expected = max((tensor.end for tensor in tensors), default=8 + length)
    if expected != size:
        raise ModelError(f"{file} has {size} bytes where its header promises {expected}: {_AGAIN}")
    yield from tensors


def _tensor(file: Path, base: int, name: str, entry: dict[str, Any]) -> StoredTensor:
    start, end = entry["data_offsets"]
    return StoredTensor(name, str(entry["dtype"]), tuple(entry["shape"]), file, base + start, base + end)
