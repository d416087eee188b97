from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from health_runs import adapted as toy_adapted
from health_runs import forward

from seektune.models.load import Loaded
from seektune.training.finding import Origin
from seektune.training.loop import train
from seektune.training.probe import (
    MOVEMENT_STEPS,
    Movement,
    first_non_finite,
    parameters_finite,
    row_lengths,
    rows_of,
)
from seektune.types import IGNORE, Batch, Sample

Adapted = Callable[..., Loaded]
MODELS = ("llama", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4")


def batches_of(rows: Any, group: int) -> list[Batch]:
    return list(rows.grouped(group).epoch(0))


def origin(loaded: Loaded, batches: list[Batch]) -> Origin | None:
    loaded.model.train()
    return first_non_finite(loaded.model, lambda batch: forward(loaded, batch)[0], batches)


def test_rows_carry_their_tokens_share_and_loss(rows: Any) -> None:
    batches = batches_of(rows, 3)
    log_probs = [-torch.arange(batch.input_ids.numel(), dtype=torch.float32) for batch in batches]
    found = rows_of(batches, log_probs)
    assert [row.row_id for row in found] == [sample.row_id for sample in rows.samples]
    assert [row.tokens for row in found] == list(row_lengths(batches)) == list(map(len, rows.samples))
    assert sum(row.share for row in found) == pytest.approx(1)
    first = rows.samples[0]
    places = [i for i, target in enumerate(first.targets) if target != IGNORE]
    assert found[0].loss == pytest.approx(sum(places) / len(places))


def test_a_row_without_targets_has_no_loss_and_a_broken_one_keeps_its_nan(rows: Any) -> None:
    silent = Sample((3, 4, 5), (IGNORE,) * 3, "toy.jsonl:0")
    batches = batches_of(type(rows)([silent, *rows.samples[:2]]), 3)
    log_probs = torch.zeros(batches[0].input_ids.numel())
    log_probs[-1] = float("nan")
    losses = [row.loss for row in rows_of(batches, [log_probs])]
    assert losses[0] is None
    assert losses[1] == 0
    assert losses[2] != losses[2]


def test_finite_parameters(adapted: Adapted) -> None:
    parameters = list(adapted().model.parameters())
    assert parameters_finite(parameters)
    assert parameters_finite([])
    parameters[3].data.view(-1)[0] = float("inf")
    assert not parameters_finite(parameters)


def moved(loaded: Loaded, rows: Any, learning_rate: float, steps: int = MOVEMENT_STEPS) -> Any:
    movement, found = Movement(loaded), []
    for metrics in train(loaded, rows.grouped(4), max_steps=steps, learning_rate=learning_rate):
        found.append(movement.after_step(metrics.learning_rate))
    return found


@pytest.mark.parametrize("learning_rate", [1e-5, 1e-2])
def test_movement_is_a_share_of_the_learning_rate_group_by_group(rows: Any, learning_rate: float) -> None:
    found = moved(toy_adapted("deepseek_v3"), rows, learning_rate)
    assert found[:-1] == [None] * (MOVEMENT_STEPS - 1)
    assert found[-1].keys() == {"attention", "dense", "shared", "routed"}
    assert all(0.1 < value < 1.5 for value in found[-1].values())


def test_a_group_that_was_frozen_later_stands_still(rows: Any) -> None:
    loaded = toy_adapted("deepseek_v3")
    movement = Movement(loaded)
    for name, parameter in loaded.model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and ".shared_experts." not in name)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(1e-3)
    found = [movement.after_step(1e-3) for _ in range(MOVEMENT_STEPS)][-1]
    assert found is not None
    assert found.pop("shared") == 0
    assert min(found.values()) > 0.01


def test_a_group_that_was_frozen_before_is_not_expected_to_move() -> None:
    loaded = toy_adapted("deepseek_v3")
    for name, parameter in loaded.model.named_parameters():
        if ".self_attn." in name:
            parameter.requires_grad_(False)
    found = [Movement(loaded).after_step(0.0), *map(Movement(loaded).after_step, [1.0] * MOVEMENT_STEPS)]
    assert found[0] is None
    assert found[-1] is not None
    assert found[-1].keys() == {"dense", "shared", "routed"}


def test_steps_at_rate_zero_ask_nothing_of_b() -> None:
    movement = Movement(toy_adapted("llama"))
    assert [movement.after_step(0.0) for _ in range(2 * MOVEMENT_STEPS)] == [None] * 2 * MOVEMENT_STEPS


@pytest.mark.parametrize("name", MODELS)
def test_a_healthy_batch_has_no_origin_and_leaves_nothing_behind(name: str, rows: Any) -> None:
    loaded = toy_adapted(name)
    assert origin(loaded, batches_of(rows, 4)) is None
    assert not any(module._forward_hooks for module in loaded.model.modules())
    assert all(parameter.grad is None for parameter in loaded.model.parameters())


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("part", ["input_layernorm", "self_attn", "mlp"])
@pytest.mark.parametrize("name", MODELS)
def test_an_overflow_is_traced_to_its_layer_and_part(name: str, part: str, layer: int, rows: Any) -> None:
    loaded = toy_adapted(name)

    def overflow(_module: Any, _inputs: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        first = first * 3e38 * 3e38
        return (first, *output[1:]) if isinstance(output, tuple) else first

    loaded.model.model.layers[layer].get_submodule(part).register_forward_hook(overflow)
    assert origin(loaded, batches_of(rows, 4)) == Origin(f"model.layers.{layer}.{part}", layer, "output")


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", MODELS)
def test_a_gradient_that_overflows_is_traced_to_its_layer(name: str, layer: int, rows: Any) -> None:
    loaded = toy_adapted(name)

    def overflow(_module: Any, _inputs: Any, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda gradient: gradient * float("inf"))

    loaded.model.model.layers[layer].post_attention_layernorm.register_forward_hook(overflow)
    assert origin(loaded, batches_of(rows, 4)) == Origin(f"model.layers.{layer}", layer, "gradient")


def test_a_gradient_that_overflows_behind_the_layers_is_not_blamed_on_one(
    rows: Any, adapted: Adapted
) -> None:
    loaded = adapted()
    loaded.model.model.norm.register_full_backward_pre_hook(lambda _, grads: (grads[0] * float("inf"),))
    found = origin(loaded, batches_of(rows, 4))
    assert found is not None
    assert found.layer is None


@pytest.mark.parametrize(
    ("place", "layer"),
    [
        ("model.embed_tokens.weight", None),
        ("model.layers.1.mlp.experts.down_proj", 1),
        ("model.layers.0.self_attn.o_proj.deltas.default.lora_B", 0),
        ("lm_head.weight", None),
    ],
)
def test_a_parameter_that_is_broken_itself_is_named(place: str, layer: int | None, rows: Any) -> None:
    loaded = toy_adapted("deepseek_v3")
    dict(loaded.model.named_parameters())[place].data.fill_(float("nan"))
    assert origin(loaded, batches_of(rows, 4)) == Origin(place, layer, "parameter")


def test_gradients_spoilt_by_the_failed_step_do_not_mislead(rows: Any) -> None:
    loaded = toy_adapted("llama")
    for parameter in loaded.model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, float("nan"))
    assert origin(loaded, batches_of(rows, 4)) is None
