"""Routed experts in a batch of many adapters, against the naive twin and transformers' own experts."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.integrations.moe import grouped_mm_experts_forward

from seektune.models.tiny import tiny_model
from seektune.ops.multi_expert_lora import ExpertLora, multi_expert_lora, multi_expert_lora_reference

EXPERTS, HIDDEN, WIDTH, CHOICES = 8, 16, 12, 3


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def base(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return (
        randn(EXPERTS, 2 * WIDTH, HIDDEN, seed=1, dtype=dtype),
        randn(EXPERTS, HIDDEN, WIDTH, seed=2, dtype=dtype),
    )


def lora(experts: list[int], r: int, seed: int, dtype: torch.dtype = torch.float64) -> ExpertLora:
    n = len(experts)
    shapes = ((n, r, HIDDEN), (n, 2 * WIDTH, r), (n, r, WIDTH), (n, HIDDEN, r))
    matrices = [randn(*shape, seed=seed + i, dtype=dtype) for i, shape in enumerate(shapes)]
    places = tuple(experts.index(e) if e in experts else -1 for e in range(EXPERTS))
    return ExpertLora(*matrices, places)


def loras(dtype: torch.dtype = torch.float64) -> list[ExpertLora | None]:
    """All experts, three of them, nothing, one of them: four ranks, four slots."""
    return [
        lora(list(range(EXPERTS)), 4, 10, dtype),
        lora([1, 5, 6], 2, 20, dtype),
        None,
        lora([0], 3, 30, dtype),
    ]


def routed(tokens: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    index = torch.rand(tokens, EXPERTS + 1, generator=rng).topk(CHOICES).indices  # EXPERTS = no expert
    weights = torch.rand(tokens, CHOICES, generator=rng).to(dtype)
    return randn(tokens, HIDDEN, seed=seed, dtype=dtype), index, weights


@settings(max_examples=30)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=12), st.integers(0, 99))
def test_a_mixed_batch_is_each_token_with_its_own_adapter(slots, seed):
    args = (*routed(len(slots), seed), *base(), torch.tensor(slots), loras())
    want = multi_expert_lora_reference(*args)
    torch.testing.assert_close(multi_expert_lora(*args), want, rtol=0, atol=1e-10)


def test_a_gate_of_the_model_is_used():
    def gate(gate_up: Tensor) -> Tensor:
        g, u = gate_up.chunk(2, -1)
        return torch.tanh(g) * u.clamp(max=1)

    args = (*routed(9, 3), *base(), torch.tensor([0, 1, 2, 3, -1, 0, 1, 0, -1]), loras(), gate)
    want = multi_expert_lora_reference(*args)
    torch.testing.assert_close(multi_expert_lora(*args), want, rtol=0, atol=1e-10)
    assert not torch.equal(want, multi_expert_lora_reference(*args[:-1]))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 2e-2)])
def test_lower_precision_keeps_its_rounding(dtype, tolerance):
    slots = torch.tensor([0, 1, 2, 3, -1, 0, 1, 0, -1])
    hidden, index, weights = routed(9, 3, dtype)
    got = multi_expert_lora(hidden, index, weights, *base(dtype), slots, loras(dtype))
    doubled = [
        None if one is None else ExpertLora(*(m.double() for m in one[:4]), one[4]) for one in loras(dtype)
    ]
    exact = (hidden.double(), index, weights.double(), *(weight.double() for weight in base(dtype)))
    want = multi_expert_lora_reference(*exact, slots, doubled)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), want, rtol=0, atol=tolerance * float(want.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [1, 7, 50])
def test_rows_without_an_adapter_are_the_stock_experts(dtype, tokens):
    experts = copy.deepcopy(tiny_model("deepseek_v3", dtype=dtype)[0].model.layers[1].mlp.experts)
    count, _, hidden = experts.gate_up_proj.shape
    rng = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, hidden, generator=rng).to(dtype)
    index = torch.rand(tokens, count, generator=rng).topk(3).indices
    weights = torch.rand(tokens, 3, generator=rng).to(dtype)
    slots = torch.where(torch.arange(tokens) % 3 == 0, -1, 0)
    n, inner = count, experts.down_proj.shape[-1]
    shapes = ((n, 2, hidden), (n, 2 * inner, 2), (n, 2, inner), (n, hidden, 2))
    one = ExpertLora(*(torch.randn(shape, generator=rng).to(dtype) for shape in shapes), tuple(range(n)))
    with torch.no_grad():
        stock = type(experts).forward.__wrapped__ if dtype == torch.float64 else grouped_mm_experts_forward
        want = stock(experts, x, index, weights)
        got = multi_expert_lora(x, index, weights, experts.gate_up_proj, experts.down_proj, slots, [one])
    # Bit for bit where a product's rows do not depend on their places, which is up to the processor.
    tolerance = {torch.float64: 1e-14, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    torch.testing.assert_close(got[slots < 0], want[slots < 0], rtol=tolerance, atol=tolerance)
    assert not torch.isclose(got[slots == 0], want[slots == 0]).all(1).any()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gpu_computes_the_same(dtype):
    slots = torch.tensor([0, 1, 2, 3, -1, 0, 1, 0, -1])
    args = (*routed(9, 3, dtype), *base(dtype))
    want = multi_expert_lora(*args, slots, loras(dtype)).float()
    moved = [
        None if one is None else ExpertLora(*(m.cuda() for m in one[:4]), one[4]) for one in loras(dtype)
    ]
    got = multi_expert_lora(*(tensor.cuda() for tensor in args), slots.cuda(), moved).float().cpu()
    torch.testing.assert_close(got, want, rtol=0, atol=3e-2 * float(want.abs().max()))
