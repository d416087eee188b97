"""Wrappers: a base module and its named deltas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.lowrank import LowRank
from seektune.adapters.wrap import AdaptedExperts, AdaptedLinear
from seektune.models.load import load_model


@pytest.fixture
def wrapper() -> AdaptedLinear:
    torch.manual_seed(0)
    wrapped = AdaptedLinear(nn.Linear(8, 6).requires_grad_(False))
    delta = LowRank(8, 6, r=2, scaling=0.5)
    delta.reset(False, torch.Generator().manual_seed(1))
    wrapped.deltas["one"] = delta
    return wrapped


def test_without_an_active_delta_the_base_answers_alone(wrapper: AdaptedLinear) -> None:
    x = torch.randn(3, 8)
    assert torch.equal(wrapper(x), wrapper.base_layer(x))


def test_the_active_delta_is_added_by_the_formula(wrapper: AdaptedLinear) -> None:
    x, delta = torch.randn(2, 3, 8), wrapper.deltas["one"]
    wrapper.active = "one"
    expected = wrapper.base_layer(x) + 0.5 * x @ delta.lora_A.T @ delta.lora_B.T
    torch.testing.assert_close(wrapper(x), expected)


def test_dropout_is_used_in_training_and_not_in_evaluation(wrapper: AdaptedLinear) -> None:
    x = torch.randn(3, 8)
    wrapper.active = "one"
    wrapper.deltas["one"].dropout = 0.5
    wrapper.eval()
    assert torch.equal(wrapper(x), wrapper(x))
    wrapper.train()
    assert not torch.equal(wrapper(x), wrapper(x))


def test_code_that_reads_a_linear_can_read_the_wrapper(wrapper: AdaptedLinear) -> None:
    assert wrapper.weight is wrapper.base_layer.weight
    assert wrapper.bias is wrapper.base_layer.bias
    assert (wrapper.in_features, wrapper.out_features) == (8, 6)
    assert AdaptedLinear(nn.Linear(2, 3, bias=False)).bias is None


def test_use_is_recorded_where_gradients_are(wrapper: AdaptedLinear) -> None:
    x, delta = torch.randn(3, 8), wrapper.deltas["one"]
    wrapper(x)
    assert not delta.ran  # not active
    wrapper.active = "one"
    with torch.no_grad():
        wrapper(x)
    assert not delta.ran
    wrapper(x)
    assert delta.ran


def _experts(name: str) -> tuple[nn.Module, AdaptedExperts]:
    experts = load_model(f"tiny/{name}", dtype="float64").model.model.layers[1].mlp.experts
    experts.requires_grad_(False)
    return experts, AdaptedExperts(experts)


def _naive(experts: nn.Module, delta: ExpertsLowRank, hidden: Tensor, index: Tensor, w: Tensor) -> Tensor:
    """Dense weights W + s·B A for the adapted experts, one token and choice at a time."""
    out = torch.zeros_like(hidden)
    for t, k in torch.cartesian_prod(torch.arange(index.shape[0]), torch.arange(index.shape[1])).tolist():
        e = int(index[t, k])
        gate_up, down = experts.gate_up_proj[e], experts.down_proj[e]
        if (n := int(delta.slots[e])) >= 0:
            gate_up = gate_up + delta.scaling * delta.gate_up_B[n].double() @ delta.gate_up_A[n].double()
            down = down + delta.scaling * delta.down_B[n].double() @ delta.down_A[n].double()
        out[t] += w[t, k] * (down @ experts._apply_gate(gate_up @ hidden[t]))
    return out


@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_v4"])
@pytest.mark.parametrize("chosen", [None, [0, 3, 6]])
def test_adapted_experts_match_the_naive_sum(name: str, chosen: list[int] | None) -> None:
    experts, adapter = _experts(name)
    delta = ExpertsLowRank((8, 64, 32), r=3, scaling=0.7, experts=chosen)
    delta.reset(False, torch.Generator().manual_seed(0))
    adapter.deltas["one"], adapter.active = delta, "one"
    torch.manual_seed(2)
    hidden = 30 * torch.randn(9, 64, dtype=torch.float64)  # wide enough to meet V4's clamp
    index = torch.stack([torch.randperm(8)[:2] for _ in range(9)])
    weights = torch.rand(9, 2, dtype=torch.float64)
    got = adapter(experts, hidden, index, weights)
    torch.testing.assert_close(got, _naive(experts, delta, hidden, index, weights), rtol=1e-10, atol=1e-9)


def test_experts_drop_the_input_of_their_deltas_in_training_only() -> None:
    experts, adapter = _experts("deepseek_v3")
    delta = ExpertsLowRank((8, 64, 32), r=2, scaling=1.0, dropout=0.5)
    delta.reset(False, torch.Generator().manual_seed(0))
    adapter.deltas["one"], adapter.active = delta, "one"
    index, weights = torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2, dtype=torch.float64)
    hidden = torch.randn(2, 64, dtype=torch.float64)
    torch.manual_seed(0)
    first, second = (adapter(experts, hidden, index, weights) for _ in range(2))
    assert not torch.equal(first, second)
    adapter.eval()
    first, second = (adapter(experts, hidden, index, weights) for _ in range(2))
    assert torch.equal(first, second)


def test_the_class_s_own_gate_is_kept_only_where_it_is_not_plain_swiglu() -> None:
    assert _experts("deepseek_v2")[1].swiglu
    assert _experts("deepseek_v3")[1].swiglu
    assert not _experts("deepseek_v4")[1].swiglu


def test_backward_records_experts_of_tokens_that_reach_the_loss() -> None:
    experts, adapter = _experts("deepseek_v3")
    delta = ExpertsLowRank((8, 64, 32), r=2, scaling=1.0)
    adapter.deltas["one"], adapter.active = delta, "one"
    hidden = torch.randn(2, 64, dtype=torch.float64)
    out = adapter(experts, hidden, torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2, dtype=torch.float64))
    assert not delta.reached_rows().any()
    out[1].sum().backward()
    assert delta.reached_rows().nonzero().flatten().tolist() == [2, 3]
