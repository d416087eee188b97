"""Fingerprints of tensors that must not move."""

from __future__ import annotations

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from seektune.adapters.fingerprints import checksums, sha256


def checksum(tensor: Tensor) -> int:
    return checksums({"it": tensor})["it"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
@pytest.mark.parametrize("size", [1, 3, 8, 1000])
def test_one_changed_element_changes_both(dtype: torch.dtype, size: int) -> None:
    tensor = torch.zeros(size, dtype=dtype)
    before = checksum(tensor), sha256(tensor)
    tensor[size // 2] = 1
    assert checksum(tensor) != before[0]
    assert sha256(tensor) != before[1]


@given(st.binary(min_size=1, max_size=40), st.data())
def test_any_flipped_bit_changes_the_checksum(content: bytes, data: st.DataObject) -> None:
    tensor = torch.tensor(list(content), dtype=torch.uint8)
    before = checksum(tensor)
    at = data.draw(st.integers(0, len(content) - 1))
    tensor[at] ^= 1 << data.draw(st.integers(0, 7))
    assert checksum(tensor) != before


def test_exchanged_words_change_the_checksum_within_and_across_blocks() -> None:
    tensor = torch.arange(3 * 2**18)
    for i, j in ((0, 1), (5, 5 + 2**18)):
        moved = tensor.clone()
        moved[i], moved[j] = tensor[j], tensor[i]
        assert checksum(moved) != checksum(tensor)


def test_bits_count_and_not_values() -> None:
    assert checksum(torch.tensor([0.0])) != checksum(torch.tensor([-0.0]))
    nan = torch.tensor([float("nan")])
    assert checksum(nan) == checksum(nan.clone())


def test_layout_in_memory_does_not_matter() -> None:
    tensor = torch.randn(6, 10)
    assert checksum(tensor.T.contiguous().T) == checksum(tensor)
    assert checksum(torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:]) == checksum(tensor.flatten())
    assert sha256(tensor.T.contiguous().T) == sha256(tensor)


def test_sha256_is_that_of_the_bytes() -> None:
    tensor = torch.tensor([1, 2, 3], dtype=torch.int16)
    assert sha256(tensor) == hashlib.sha256(bytes([1, 0, 2, 0, 3, 0])).hexdigest()


def test_an_empty_tensor_has_a_fingerprint() -> None:
    assert checksum(torch.empty(0)) == 0
