from __future__ import annotations

import json
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from seektune.errors import ModelError
from seektune.models.checkpoint import read_config, stored_tensors

Checkpoint = Callable[..., Path]
SMALL = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)})


def folder_of(content: bytes, into: str) -> Path:
    (Path(into) / "model.safetensors").write_bytes(content)
    return Path(into)


def test_headers_say_what_the_files_hold(checkpoint: Checkpoint) -> None:
    folder = checkpoint("deepseek_v3")
    tensors = load_file(folder / "model.safetensors")
    stored = stored_tensors(folder)
    assert [tensor.name for tensor in stored] == sorted(tensors)
    for tensor in stored:
        value = tensors[tensor.name]
        assert (tensor.shape, tensor.numel) == (tuple(value.shape), value.numel())
        with tensor.file.open("rb") as stream:
            stream.seek(tensor.start)
            assert stream.read(tensor.end - tensor.start) == value.numpy().tobytes()


def test_shards_are_read_through_their_index(checkpoint: Checkpoint) -> None:
    whole = stored_tensors(checkpoint("deepseek_v3", "whole"))
    sharded = stored_tensors(checkpoint("deepseek_v3", "sharded", max_shard_size="100KB"))
    assert len({tensor.file for tensor in sharded}) > 2
    assert [(t.name, t.dtype, t.shape) for t in sharded] == [(t.name, t.dtype, t.shape) for t in whole]


@given(st.integers(0, len(SMALL) - 1))
def test_a_file_cut_anywhere_is_an_error_naming_it(length: int) -> None:
    with (
        TemporaryDirectory() as folder,
        pytest.raises(ModelError, match=r"model\.safetensors .*fetch it again"),
    ):
        stored_tensors(folder_of(SMALL[:length], folder))


@given(st.binary(max_size=200))
def test_any_bytes_for_a_header_are_read_or_refused(header: bytes) -> None:
    with TemporaryDirectory() as folder, suppress(ModelError):
        stored_tensors(folder_of(struct.pack("<Q", len(header)) + header, folder))


@pytest.mark.parametrize(
    "entry", ["[]", '{"a": 1}', '{"a": {}}', '{"a": {"dtype": "F32", "shape": [1]}}', "3"]
)
def test_a_header_of_the_wrong_shape_is_damaged(entry: str, tmp_path: Path) -> None:
    content = struct.pack("<Q", len(entry)) + entry.encode()
    with pytest.raises(ModelError, match="no sound safetensors header"):
        stored_tensors(folder_of(content, str(tmp_path)))


def test_a_file_with_bytes_behind_its_tensors_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="where its header promises"):
        stored_tensors(folder_of(SMALL + b"x", str(tmp_path)))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt"])
def test_pickled_weights_are_refused_with_a_way_out(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04N.")
    with pytest.raises(ModelError, match=rf"{name} is a pickle file.*save_pretrained"):
        stored_tensors(tmp_path)


def test_pickles_beside_safetensors_do_not_matter(tmp_path: Path) -> None:
    (tmp_path / "optimizer.pt").write_bytes(b"\x80\x04N.")
    assert len(stored_tensors(folder_of(SMALL, str(tmp_path)))) == 2


def test_a_missing_shard_is_named(checkpoint: Checkpoint) -> None:
    folder = checkpoint("deepseek_v3", max_shard_size="100KB")
    missing = sorted(folder.glob("model-*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(ModelError, match=rf"lacks 1 of \d+ shards \({missing.name}\)"):
        stored_tensors(folder)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_a_damaged_index_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match=r"index\.json is not a safetensors index"):
        stored_tensors(tmp_path)


def test_a_folder_without_weights_says_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"neither model\.safetensors nor model\.safetensors\.index\.json"):
        stored_tensors(tmp_path)


def test_a_config_is_read_and_its_absence_or_damage_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="names no model_type"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert read_config(tmp_path) == {"model_type": "llama"}


def test_an_adapter_folder_is_no_base_model(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="adapter folder, not a base model"):
        read_config(tmp_path)
