"""The forms the doctor names are those that run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seektune.models import backends
from seektune.ops import expert_lora as module
from seektune.ops import packed_attention as attention
from seektune.ops import streamed_linear
from seektune.recipes.kernels import REASONS, kernels


def forms() -> dict[str, str]:
    return {check.name: check.found for check in kernels()}


def test_every_form_has_its_reason() -> None:
    assert all(check.note == REASONS[check.found] for check in kernels())


def test_the_form_of_expert_lora_is_the_one_that_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    for name in ("expert_lora_loop", "expert_lora_grouped"):

        def form(hidden: Any, *_: Any, name: str = name) -> Any:
            called.append(name)
            return hidden

        form.__name__ = name
        monkeypatch.setattr(module, name, form)
    e, h, i, r = 4, 32, 16, 2
    shapes = [(e, 2 * i, h), (e, h, i), (e, r, h), (e, 2 * i, r), (e, r, i), (e, h, r)]
    tensors = [torch.zeros(shape, dtype=torch.bfloat16) for shape in shapes]
    index = torch.zeros(3, 2, dtype=torch.long)
    module.expert_lora(torch.zeros(3, h, dtype=torch.bfloat16), index, index.bfloat16(), *tensors, 1.0)
    assert called == [f"expert_lora_{forms()['expert_lora']}"]


@pytest.mark.parametrize(("name", "dtype"), [("attention", "bfloat16"), ("attention_fp32", "float32")])
def test_the_form_of_attention_is_the_one_that_is_called(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    for form, function in (("blocks", "packed_attention_blocks"), ("sdpa", "_causal")):
        real = getattr(attention, function)
        monkeypatch.setattr(
            attention, function, lambda *args, form=form, real=real: (called.append(form), real(*args))[1]
        )
    q, k, v = (torch.zeros(1, 2, 5, width, dtype=getattr(torch, dtype)) for width in (24, 24, 16))
    attention.packed_attention(q, k, v, torch.tensor([0, 5], dtype=torch.int32), 1.0)
    assert called == [forms()[name]]


def test_the_form_of_frozen_experts_is_one_of_transformers() -> None:
    assert forms()["experts"] in backends.ALL_EXPERTS_FUNCTIONS
    assert forms()["experts_decoding"] in backends.ALL_EXPERTS_FUNCTIONS


def test_decoding_in_float32_is_compiled_where_numba_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert forms()["few_rows_fp32"] == "compiled"
    monkeypatch.setattr(streamed_linear, "compiled", lambda *_: None)
    assert forms()["few_rows_fp32"] == "library"


@pytest.mark.gpu
def test_on_a_gpu_experts_are_grouped() -> None:
    assert (forms()["expert_lora"], forms()["experts_decoding"]) == ("grouped", "batched_mm")
