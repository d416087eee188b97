"""Adapter folders as hostile files: what is refused before it is read, and what is never opened."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from seektune.adapters.folder import (
    COMPACT,
    CONFIG,
    WEIGHTS,
    content_hash,
    read_json,
    read_tensors,
    real_folder,
    refuse_costly_patterns,
    signature,
    versioned,
    weights_file,
)
from seektune.errors import AdapterError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "root" / "adapter"
    path.mkdir(parents=True)
    save_file({"x": torch.ones(3)}, path / WEIGHTS)
    (path / CONFIG).write_text("{}")
    return path


def test_a_folder_inside_the_root_is_itself(folder):
    assert real_folder(folder, folder.parent) == folder
    assert real_folder(folder.parent / "x" / ".." / "adapter", folder.parent) == folder


@pytest.mark.parametrize("way", ["../outside", "link", "/etc"])
def test_every_way_out_of_the_root_is_refused(way, folder, tmp_path):
    (tmp_path / "outside").mkdir()
    (folder.parent / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(AdapterError, match="leads outside"):
        real_folder(folder.parent / way, folder.parent)


def test_a_root_that_only_begins_alike_is_outside(folder, tmp_path):
    (tmp_path / "rootless").mkdir()
    with pytest.raises(AdapterError, match="leads outside"):
        real_folder(tmp_path / "rootless", tmp_path / "root")


def test_a_file_that_links_out_of_the_root_is_refused(folder, tmp_path):
    (folder / WEIGHTS).rename(tmp_path / "weights")
    (folder / WEIGHTS).symlink_to(tmp_path / "weights")
    with pytest.raises(AdapterError, match="leads outside"):
        real_folder(folder, folder.parent)
    assert real_folder(folder, tmp_path) == folder


@pytest.mark.parametrize("name", ["a\x00b", "x" * 5000, "ring"])
def test_a_path_that_is_none_is_an_adapter_error(name, folder):
    (folder.parent / "ring").symlink_to("ring")
    with pytest.raises(AdapterError):
        real_folder(folder.parent / name, folder.parent)


def test_the_weights_file_is_the_one_that_is_there(folder):
    assert weights_file(folder) == folder / WEIGHTS
    (folder / COMPACT).touch()
    with pytest.raises(AdapterError, match="holds both"):
        weights_file(folder)


def test_a_header_larger_than_its_file_is_never_read(folder):
    for claimed in (2**63, 10**9, 1000):
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", claimed) + b"{}")
        with pytest.raises(AdapterError, match="its header claims"):
            read_tensors(folder / WEIGHTS)


def test_a_huge_header_is_refused_even_where_the_file_has_it(folder):
    with (folder / WEIGHTS).open("wb") as stream:
        stream.write(struct.pack("<Q", 65 << 20))
        stream.truncate(66 << 20)  # sparse
    with pytest.raises(AdapterError, match="its header claims"):
        read_tensors(folder / WEIGHTS)


@pytest.mark.parametrize(
    "content", [b"", b"1234", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 2) + b"{}x"]
)
def test_a_damaged_file_is_named(content, folder):
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(AdapterError, match="truncated or no safetensors"):
        read_tensors(folder / WEIGHTS)


def test_a_deep_safetensors_header_is_refused(folder):
    deep = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(deep)) + deep)
    with pytest.raises(AdapterError, match="no safetensors"):
        read_tensors(folder / WEIGHTS)


def test_a_file_above_the_limit_is_not_read(folder):
    assert list(read_tensors(folder / WEIGHTS, 10_000)) == ["x"]
    with pytest.raises(AdapterError, match="at most 10 are allowed"):
        read_tensors(folder / WEIGHTS, 10)


@pytest.mark.parametrize("content", ["", "[]", "3", "{", "\ud800", '{"a": ' * 100_000, "[" * 100_000])
def test_json_that_is_no_object_is_refused_however_deep(content, folder):
    (folder / CONFIG).write_text(content, errors="surrogatepass")
    with pytest.raises(AdapterError):
        read_json(folder / CONFIG)


def test_json_above_its_limit_is_not_read(folder):
    with (folder / CONFIG).open("wb") as stream:
        stream.truncate(17 << 20)
    with pytest.raises(AdapterError, match="more than 16,777,216 bytes"):
        read_json(folder / CONFIG)


def test_a_pipe_is_not_waited_for(folder):
    for name in (CONFIG, WEIGHTS):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    with pytest.raises(AdapterError, match="no regular file"):
        read_json(folder / CONFIG)
    with pytest.raises(AdapterError, match="it is no adapter folder"):
        weights_file(folder)
    assert content_hash(folder, {})


def test_the_hash_and_the_signature_tell_contents_apart(folder):
    before, seen = content_hash(folder, {"r": 4}), signature(folder)
    assert content_hash(folder, {"r": 4}) == before != content_hash(folder, {"r": 5})
    assert signature(folder) == seen
    (folder / CONFIG).write_text(json.dumps({"r": 8}))
    assert content_hash(folder, {"r": 4}) != before
    assert signature(folder) != seen


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.layers\.\d+\.(self_attn|mlp)\.(?:q_proj|down_proj)",
        r"model\.layers\.0\.mlp\.experts",
        r".*[*+{(]x",
        r"(q|k|v|o)_proj",
        r"\(\?x\)\*\*\*\*\*",
    ],
)
def test_patterns_that_people_write_are_allowed(pattern, folder):
    refuse_costly_patterns(folder, [pattern])


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a*)*b",
        r"(?:a|aa)+b",
        r"((a){9}){9}",
        ".*" * 5,
        "a?" * 30,
        "(.|.)" * 30,
        "(?x)#[\n(a*)*b#]",
        r"(?i:a)",
        r"(?=a)b",
        r"[]*+?{](a*)*[x]",
        "|".join("a" * 40),
        "a" * 3000,
    ],
)
def test_patterns_that_may_run_for_ages_are_refused(pattern, folder):
    with pytest.raises(AdapterError, match="may take too long"):
        refuse_costly_patterns(folder, ["fine", pattern])


def test_too_many_patterns_are_refused(folder):
    with pytest.raises(AdapterError, match="513 patterns"):
        refuse_costly_patterns(folder, ["a"] * 513)


def test_a_version_is_named_by_its_content() -> None:
    assert versioned("medical", "0123456789abcdef0123") == "medical@0123456789abcdef"
