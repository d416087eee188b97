from __future__ import annotations

import random

import pytest
import torch

from seektune.data.batches import collate
from seektune.errors import ModelError
from seektune.models.forward import hidden_states
from seektune.models.load import Loaded, load_model
from seektune.models.routing import recorded_routing, routers, routing_profile
from seektune.types import Batch, Sample

MOE = ("deepseek_v2", "deepseek_v2_lite", "deepseek_v3", "deepseek_v32", "deepseek_v4")
CHOICES, EXPERTS = 2, 8


def batch_of(lengths: tuple[int, ...] = (20, 31, 12), seed: int = 0) -> Batch:
    generator = random.Random(seed)
    rows = [tuple(generator.randrange(3, 259) for _ in range(length)) for length in lengths]
    return collate([Sample(ids, ids, f"toy:{i}") for i, ids in enumerate(rows)])


def run(loaded: Loaded, batch: Batch) -> None:
    hidden_states(loaded.model, loaded.family.packs, batch.input_ids, batch.position_ids, batch.cu_seqlens)


@pytest.mark.parametrize("name", MOE)
def test_every_token_chooses_its_experts_in_every_layer_with_a_router(name: str) -> None:
    loaded = load_model(f"tiny/{name}")
    batches = [batch_of(), batch_of((9,), seed=1)]
    profile = routing_profile(loaded, batches)
    layers = range(3) if name == "deepseek_v4" else [1]
    assert list(profile.counts) == list(profile.weights) == list(layers)
    assert profile.tokens == 72
    for counts, weights in zip(profile.counts.values(), profile.weights.values(), strict=True):
        assert len(counts) == len(weights) == EXPERTS
        assert sum(counts) == 72 * CHOICES
        assert [weight > 0 for weight in weights] == [count > 0 for count in counts]


@pytest.mark.parametrize("name", MOE)
def test_the_counts_are_those_of_the_experts_that_ran(name: str) -> None:
    loaded, batch = load_model(f"tiny/{name}"), batch_of()
    seen: dict[int, torch.Tensor] = {}
    for layer in routers(loaded):
        experts = loaded.model.model.layers[layer].mlp.experts

        def note(_: object, inputs: tuple[torch.Tensor, ...], layer: int = layer) -> None:
            counts = torch.bincount(inputs[1].flatten(), minlength=EXPERTS)
            seen[layer] = seen.get(layer, torch.zeros(EXPERTS)) + counts

        experts.register_forward_pre_hook(note)
    profile = routing_profile(loaded, [batch])
    assert {layer: tuple(map(int, counts.tolist())) for layer, counts in seen.items()} == profile.counts


def test_a_hashed_layer_is_loaded_by_token_ids_alone() -> None:
    loaded, batch = load_model("tiny/deepseek_v4"), batch_of()
    table = loaded.model.model.layers[0].mlp.gate.tid2eid
    expected = torch.bincount(table[batch.input_ids[0]].flatten(), minlength=EXPERTS)
    assert routing_profile(loaded, [batch]).counts[0] == tuple(expected.tolist())


def test_recording_adds_up_and_ends_with_its_block() -> None:
    loaded, batch = load_model("tiny/deepseek_v3"), batch_of()
    with recorded_routing(loaded) as record, torch.no_grad():
        run(loaded, batch)
        once = record.profile()
        run(loaded, batch)
    run(loaded, batch)
    twice = record.profile()
    assert twice.tokens == 2 * once.tokens
    assert twice.counts[1] == tuple(2 * count for count in once.counts[1])
    assert not any(router._forward_hooks for router in routers(loaded).values())


def test_a_profile_leaves_the_model_in_its_mode() -> None:
    loaded = load_model("tiny/deepseek_v3")
    loaded.model.train()
    routing_profile(loaded, [batch_of()])
    assert loaded.model.training


def test_a_dense_model_has_no_routing() -> None:
    with pytest.raises(ModelError, match="tiny/llama has no routed experts"):
        routing_profile(load_model("tiny/llama"), [batch_of()])


def test_a_profile_becomes_json() -> None:
    profile = routing_profile(load_model("tiny/deepseek_v2"), [batch_of()])
    assert profile.to_json()["counts"][1] == profile.counts[1]
