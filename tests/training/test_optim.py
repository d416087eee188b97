from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seektune.models.load import Loaded
from seektune.training.loop import train
from seektune.training.optim import FACTOR, adamw, base_rate, factors, groups

Adapted = Callable[..., Loaded]
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8


def test_the_first_step_moves_every_parameter_by_the_rate_and_decays_it() -> None:
    parameter = nn.Parameter(torch.tensor([2.0, -3.0, 0.5]))
    optimizer = adamw([parameter], learning_rate=0.1, weight_decay=0.5)
    parameter.grad = torch.tensor([4.0, -0.01, 1e3])
    before = parameter.detach().clone()
    optimizer.step()
    expected = before * (1 - 0.1 * 0.5) - 0.1 * parameter.grad.sign()
    torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-6)


def test_the_optimiser_state_has_the_parameters_precision() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = adamw([parameter], learning_rate=0.1, weight_decay=0.0)
    parameter.grad = torch.ones(3)
    optimizer.step()
    state = optimizer.state[parameter]
    assert {state["exp_avg"].dtype, state["exp_avg_sq"].dtype} == {torch.float32}


@pytest.mark.parametrize("grouped", [False, True])
def test_the_fused_kernel_is_used_where_it_exists_and_not_elsewhere(grouped: bool) -> None:
    def fused(parameter: nn.Parameter) -> Any:
        parts: list[Any] = [{"params": [parameter], "lr": 1.0}] if grouped else [parameter]
        return adamw(parts, learning_rate=1.0, weight_decay=0.0).defaults["fused"]

    assert fused(nn.Parameter(torch.ones(1)))
    assert not fused(nn.Parameter(torch.ones(1, device="meta")))


def by_name(loaded: Loaded, parts: list[dict[str, Any]]) -> dict[str, float]:
    """The learning rate of every parameter."""
    rates = {id(p): part["lr"] for part in parts for p in part["params"]}
    return {key: rates[id(p)] for key, p in loaded.model.named_parameters() if id(p) in rates}


def test_by_default_there_is_one_group_in_the_models_order(adapted: Adapted) -> None:
    loaded = adapted("tiny/deepseek_v3", target_modules=["attention", "routed"])
    (group,) = groups(loaded, learning_rate=1e-3)
    trainable = [p for p in loaded.model.parameters() if p.requires_grad]
    assert [id(p) for p in group["params"]] == [id(p) for p in trainable]
    assert group.keys() == {"params", "lr"}  # nothing that a checkpoint did not have before


def test_the_rate_falls_with_every_layer_below_the_last_and_is_higher_for_b(adapted: Adapted) -> None:
    loaded = adapted("tiny/deepseek_v3", target_modules=["attention", "routed"])
    parts = groups(loaded, learning_rate=1e-3, layerwise_lr_decay=0.5, loraplus_lr_ratio=16)
    rates = by_name(loaded, parts)
    layer = "model.layers.{}.self_attn.o_proj.deltas.default.lora_{}"
    expert = "model.layers.1.mlp.experts.adapter.deltas.default.{}"
    assert rates[layer.format(1, "A")] == 1e-3  # the last of two
    assert rates[layer.format(0, "A")] == 0.5e-3
    assert rates[layer.format(0, "B")] == 16 * 0.5e-3
    assert [rates[expert.format(key)] for key in ("gate_up_A", "down_A")] == [1e-3, 1e-3]
    assert [rates[expert.format(key)] for key in ("gate_up_B", "down_B")] == [16e-3, 16e-3]
    assert len(rates) == sum(p.requires_grad for p in loaded.model.parameters())
    assert len(parts) == 4


def test_the_runs_rate_is_known_whatever_the_parts_make_of_it(adapted: Adapted) -> None:
    loaded = adapted()
    parts = groups(loaded, learning_rate=3e-3, layerwise_lr_decay=0.1, loraplus_lr_ratio=7)
    optimizer = adamw(parts, learning_rate=3e-3, weight_decay=0.0)
    assert optimizer.param_groups[0][FACTOR] != 1
    assert base_rate(optimizer) == pytest.approx(3e-3, rel=1e-12)
    rates = by_name(loaded, optimizer.param_groups)
    parameters, known = dict(loaded.model.named_parameters()), factors(optimizer)
    assert {key: known.get(id(parameters[key]), 1.0) for key in rates} == pytest.approx(
        {key: rate / 3e-3 for key, rate in rates.items()}
    )
    assert base_rate(adamw(loaded.model.parameters(), learning_rate=3e-3, weight_decay=0.0)) == 3e-3


def by_hand(parameter: Tensor, gradients: list[Tensor], rates: list[float], decay: float) -> Tensor:
    """AdamW (Loshchilov and Hutter 2019) in float64."""
    p, m, v = parameter.double(), torch.zeros(()), torch.zeros(())
    for step, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        g = gradient.double()
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g * g
        p = p * (1 - rate * decay)
        p = p - rate * (m / (1 - BETA1**step)) / ((v / (1 - BETA2**step)).sqrt() + EPS)
    return p


def test_layerwise_decay_and_lora_plus_train_as_adamw_by_hand_does(
    adapted: Adapted, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two real steps; the gradients are taken down as the optimiser gets them, after clipping."""
    loaded = adapted("tiny/deepseek_v3", target_modules=["attention", "routed"], init_lora_weights=False)
    trainable = {key: p for key, p in loaded.model.named_parameters() if p.requires_grad}
    before = {key: p.detach().clone() for key, p in trainable.items()}
    gradients: dict[str, list[Tensor]] = {key: [] for key in trainable}
    step = torch.optim.AdamW.step

    def noted(self: Any, *arguments: Any, **options: Any) -> Any:
        for key, p in trainable.items():
            assert p.grad is not None
            gradients[key].append(p.grad.clone())
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    run = train(
        loaded,
        rows.grouped(4),
        max_steps=2,
        learning_rate=1e-2,
        weight_decay=0.1,
        layerwise_lr_decay=0.5,
        loraplus_lr_ratio=4,
    )
    assert [metrics.learning_rate for metrics in run] == pytest.approx([1e-2, 0.5e-2])
    for key, parameter in trainable.items():
        factor = (0.5 if ".layers.0." in key else 1.0) * (4 if key.endswith("_B") else 1)
        rates = [1e-2 * factor, 0.5e-2 * factor]
        expected = by_hand(before[key], gradients[key], rates, decay=0.1)
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-4, atol=1e-6)
