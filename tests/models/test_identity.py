from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from seektune.models.cast import cast
from seektune.models.identity import checkpoint_identity, model_identity
from seektune.models.tiny import TINY, tiny_model

Checkpoint = Callable[..., Path]
BLOCK = 64 * 1024


@pytest.mark.parametrize("name", TINY)
def test_a_model_in_memory_has_the_identity_of_its_checkpoint(name: str, checkpoint: Checkpoint) -> None:
    assert model_identity(tiny_model(name)[0]) == checkpoint_identity(checkpoint(name))


def test_identity_does_not_depend_on_sharding(checkpoint: Checkpoint) -> None:
    whole = checkpoint_identity(checkpoint("deepseek_v3", "whole"))
    assert checkpoint_identity(checkpoint("deepseek_v3", "sharded", max_shard_size="100KB")) == whole


def test_identity_depends_on_seed_generation_and_stored_dtype() -> None:
    half = tiny_model("llama")[0]
    cast(half, torch.bfloat16)
    models = [tiny_model("llama")[0], tiny_model("llama", seed=1)[0], tiny_model("qwen2")[0], half]
    assert len({model_identity(model) for model in models}) == 4


def identity_of(folder: Path, tensors: dict[str, torch.Tensor]) -> str:
    save_file(tensors, folder / "model.safetensors")
    return checkpoint_identity(folder)


def test_names_shapes_dtypes_and_values_all_count(tmp_path: Path) -> None:
    zeros = torch.zeros(4, 2)
    variants = [{"a": zeros}, {"b": zeros}, {"a": zeros.T.contiguous()}, {"a": zeros.int()}, {"a": zeros + 1}]
    assert len({identity_of(tmp_path, variant) for variant in variants}) == 5


def test_the_order_of_tensors_in_a_file_does_not_count(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(3), "b": torch.zeros(5, dtype=torch.float64)}
    identity = identity_of(tmp_path, tensors)
    digest = hashlib.sha256()
    for name, dtype in (("a", "F32"), ("b", "F64")):  # in the file b comes first: the writer sorts by width
        digest.update(f"{name} {dtype} {list(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].numpy().tobytes())
    assert identity == digest.hexdigest()


@pytest.mark.parametrize(
    ("offset", "counts"),
    [
        (0, True),
        (BLOCK - 1, True),
        (BLOCK, False),
        (5 * BLOCK - 1, True),
        (5 * BLOCK // 2, True),
        (BLOCK * 3 // 2, False),
    ],
)
def test_of_a_large_tensor_the_first_middle_and_last_64_kib_count(
    offset: int, counts: bool, tmp_path: Path
) -> None:
    tensor = torch.zeros(5 * BLOCK, dtype=torch.uint8)
    before = identity_of(tmp_path, {"a": tensor})
    tensor[offset] = 1
    assert (identity_of(tmp_path, {"a": tensor}) != before) == counts


def test_of_a_small_tensor_every_byte_counts(tmp_path: Path) -> None:
    tensor = torch.zeros(3 * BLOCK, dtype=torch.uint8)
    before = identity_of(tmp_path, {"a": tensor})
    tensor[BLOCK * 5 // 4] = 1
    assert identity_of(tmp_path, {"a": tensor}) != before
