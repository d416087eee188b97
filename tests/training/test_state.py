"""What a run carries along: taken out as copies, put back exactly."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import run_script

from seektune.errors import TrainingError
from seektune.models.load import Loaded
from seektune.training.optim import adamw
from seektune.training.state import (
    State,
    random_state,
    restore_random_state,
    restore_tensors,
    surroundings,
    tensors_of,
)

Adapted = Callable[..., Loaded]
CPU = torch.device("cpu")


def optimizer_of(loaded: Loaded) -> torch.optim.Optimizer:
    trainable = [p for p in loaded.model.parameters() if p.requires_grad]
    return adamw(trainable, learning_rate=1e-2, weight_decay=0.1)


def step(loaded: Loaded, optimizer: torch.optim.Optimizer, seed: int, without: int = 0) -> None:
    """A step on random gradients; the first `without` parameters have none."""
    generator = torch.Generator().manual_seed(seed)
    for index, parameter in enumerate(p for p in loaded.model.parameters() if p.requires_grad):
        parameter.grad = torch.randn(parameter.shape, generator=generator) if index >= without else None
    optimizer.step()
    optimizer.zero_grad()


def taken(loaded: Loaded, optimizer: torch.optim.Optimizer) -> State:
    parameters, moments, groups = tensors_of(loaded.model, optimizer)
    return State(parameters, moments, json.loads(json.dumps({"step": 1, "groups": groups})))


def trained(loaded: Loaded) -> list[torch.Tensor]:
    return [p.detach().clone() for p in loaded.model.parameters() if p.requires_grad]


@pytest.mark.parametrize("without", [0, 3])
def test_steps_after_a_restored_state_are_the_same_bit_for_bit(without: int, adapted: Adapted) -> None:
    first = adapted("tiny/deepseek_v3", target_modules=["attention", "routed"])
    optimizer = optimizer_of(first)
    step(first, optimizer, 1, without)
    state = taken(first, optimizer)
    step(first, optimizer, 2)

    second = adapted("tiny/deepseek_v3", target_modules=["attention", "routed"], init_lora_weights="gaussian")
    again = optimizer_of(second)
    restore_tensors(second.model, again, state)
    assert len(again.state) == len(state.parameters) - without  # what never had a gradient has no state
    step(second, again, 2)
    torch.testing.assert_close(trained(second), trained(first), rtol=0, atol=0)


def test_a_state_is_a_copy_that_training_does_not_touch(adapted: Adapted) -> None:
    loaded = adapted()
    optimizer = optimizer_of(loaded)
    step(loaded, optimizer, 1)
    state = taken(loaded, optimizer)
    before = {key: value.clone() for key, value in {**state.parameters, **state.optimizer}.items()}
    step(loaded, optimizer, 2)
    restore_tensors(loaded.model, optimizer, state)
    step(loaded, optimizer, 3)
    torch.testing.assert_close({**state.parameters, **state.optimizer}, before, rtol=0, atol=0)


def test_a_state_holds_only_what_trains_and_the_base_stays_as_it_was(adapted: Adapted) -> None:
    loaded = adapted("tiny/deepseek_v3")  # its router has a stored buffer
    optimizer = optimizer_of(loaded)
    step(loaded, optimizer, 1)
    state = taken(loaded, optimizer)
    assert set(state.parameters) == {n for n, p in loaded.model.named_parameters() if p.requires_grad}
    frozen = {n: p.clone() for n, p in loaded.model.named_parameters() if not p.requires_grad}
    restore_tensors(loaded.model, optimizer, state)
    now = {n: p for n, p in loaded.model.named_parameters() if not p.requires_grad}
    torch.testing.assert_close(now, frozen, rtol=0, atol=0)


def test_the_state_of_another_adapter_is_refused_and_named(adapted: Adapted) -> None:
    loaded = adapted(r=4, target_modules=["q_proj"])
    optimizer = optimizer_of(loaded)
    step(loaded, optimizer, 1)
    state = taken(loaded, optimizer)
    wider = adapted(r=8, target_modules=["q_proj"])
    with pytest.raises(TrainingError, match=r"q_proj.*lora_A is \(4, 64\) in the checkpoint, \(8, 64\) here"):
        restore_tensors(wider.model, optimizer_of(wider), state)
    other = adapted(r=4, target_modules=["k_proj"])
    with pytest.raises(TrainingError, match=r"(?s)k_proj.*is not in.*q_proj.*is in the checkpoint only"):
        restore_tensors(other.model, optimizer_of(other), state)
    many = adapted(r=8, target_modules="all-linear")
    with pytest.raises(TrainingError, match=r"and \d+ more$"):
        restore_tensors(many.model, optimizer_of(many), state)


def drawn() -> tuple[Any, ...]:
    normal = np.random.normal(size=3).tolist()  # noqa: NPY002 - the global state is what is tested
    return random.random(), random.gauss(0, 1), normal, torch.rand(3).tolist()


def test_the_global_random_states_are_put_back_through_json() -> None:
    drawn()  # an odd number of normal draws: each state holds a spare one
    state = json.loads(json.dumps(random_state(CPU)))
    first = drawn()
    assert drawn() != first
    restore_random_state(state, CPU)
    assert drawn() == first


def test_surroundings_name_what_the_bits_depend_on() -> None:
    found = surroundings(CPU, 2)
    assert found["processes"] == 2
    assert found["threads"] == torch.get_num_threads()
    assert found["torch"] == torch.__version__
    assert found == json.loads(json.dumps(found))


SHARDED = """
import json
import torch
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from seektune.adapters.attach import attach
from seektune.config.adapter import AdapterSpec
from seektune.models.load import load_model
from seektune.training.optim import adamw
from seektune.training.state import State, restore_tensors, tensors_of

torch.distributed.init_process_group("gloo")

def sharded(init):
    spec = AdapterSpec(r=4, target_modules=["attention", "routed"], init_lora_weights=init)
    loaded = attach(load_model("tiny/deepseek_v3"), spec)
    for layer in loaded.model.model.layers:
        fully_shard(layer)
    fully_shard(loaded.model)
    trained = {key: p for key, p in loaded.model.named_parameters() if p.requires_grad}
    assert all(isinstance(p, DTensor) for p in trained.values())
    return loaded.model, trained, adamw(trained.values(), learning_rate=1e-2, weight_decay=0.1)

def step(trained, optimizer, seed):
    torch.manual_seed(seed)
    for parameter in trained.values():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    optimizer.zero_grad()

model, trained, optimizer = sharded(True)
step(trained, optimizer, 1)
parameters, moments, groups = tensors_of(model, optimizer)
assert not [v for v in [*parameters.values(), *moments.values()] if isinstance(v, DTensor)]
assert all(v.shape == trained[key].shape for key, v in parameters.items())
step(trained, optimizer, 2)
other, again, its_optimizer = sharded("gaussian")
state = State(parameters, moments, json.loads(json.dumps({"step": 1, "groups": groups})))
restore_tensors(other, its_optimizer, state)
step(again, its_optimizer, 2)
for key, parameter in trained.items():
    assert torch.equal(again[key].to_local(), parameter.to_local()), key
"""


@pytest.mark.slow
def test_the_state_of_sharded_parameters_is_whole_and_goes_back_into_shards(tmp_path: Path) -> None:
    run_script(tmp_path, SHARDED)
