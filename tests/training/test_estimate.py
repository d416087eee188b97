"""The estimate against what attaching and training really make."""

from __future__ import annotations

import json

import pytest
import torch

from seektune.adapters.attach import attach
from seektune.adapters.inventory import inventory
from seektune.config.adapter import AdapterSpec
from seektune.errors import TargetError
from seektune.models.families import GROUPS
from seektune.models.load import load_model
from seektune.models.outline import architecture, outline
from seektune.models.tiny import TINY
from seektune.training.estimate import (
    BITS,
    adapter_parameters,
    base_parameters,
    choices,
    predict,
    target_sets,
    weight_bytes,
)
from seektune.training.footprint import Workload

LOAD = Workload(tokens=256, longest=64)


@pytest.mark.parametrize("name", TINY)
def test_parameters_are_those_of_the_inventory_group_by_group(name: str) -> None:
    outlined = outline(architecture(f"tiny/{name}"))
    groups = [group for group in GROUPS if group in outlined.family.groups]
    for targets in [*([group] for group in groups), groups]:
        spec = AdapterSpec(r=3, target_modules=targets)
        table = inventory(attach(load_model(f"tiny/{name}"), spec))
        assert base_parameters(outlined).keys() - {"embeddings", "other"} == {row.group for row in table.rows}
        assert sum(base_parameters(outlined).values()) == table.total_parameters
        for row in table.rows:
            assert base_parameters(outlined)[row.group] == row.parameters
            assert adapter_parameters(outlined, spec).get(row.group, 0) == row.trainable


def test_chosen_experts_and_excluded_modules_are_counted_as_attached() -> None:
    spec = AdapterSpec(
        r=5, target_modules=["attention", "routed"], exclude_modules=["kv_b_proj"], experts={1: (0, 3, 4)}
    )
    table = inventory(attach(load_model("tiny/deepseek_v3"), spec))
    assert (
        sum(adapter_parameters(outline(architecture("tiny/deepseek_v3")), spec).values()) == table.trainable
    )


def test_a_target_that_matches_nothing_is_the_error_of_attach() -> None:
    with pytest.raises(TargetError, match="did you mean"):
        adapter_parameters(outline(architecture("tiny/llama")), AdapterSpec(target_modules=["q_prj"]))


def test_tied_embeddings_count_once() -> None:
    described = architecture("tiny/llama")
    tied = outline(type(described)("tied", described.config | {"tie_word_embeddings": True}))
    assert base_parameters(tied)["embeddings"] * 2 == base_parameters(outline(described))["embeddings"]


def test_quantised_weights_leave_embeddings_and_norms_at_sixteen_bits() -> None:
    parameters = {"attention": 800, "embeddings": 100, "other": 10}
    assert weight_bytes(parameters, BITS["float32"]) == 4 * 910
    assert weight_bytes(parameters, BITS["bfloat16"]) == 2 * 910
    assert weight_bytes(parameters, BITS["int4"]) == 800 * 4.5 / 8 + 2 * 110


def test_a_run_costs_in_proportion_to_its_tokens_and_prints_as_json() -> None:
    outlined, spec = (
        outline(architecture("deepseek-ai/DeepSeek-V2-Lite")),
        AdapterSpec(target_modules="attention"),
    )
    one, ten = (
        predict(outlined, spec, LOAD, process=0, tokens=256 * count, steps=count) for count in (1, 10)
    )
    assert ten.flops == pytest.approx(10 * one.flops)
    assert all(ten.seconds[card] == pytest.approx(10 * one.seconds[card]) for card in one.seconds)
    found = json.loads(json.dumps(ten.to_json()))
    assert found["total_parameters"] == 15_706_484_224
    assert found["peak_bytes"] == sum(found["memory"]["parts"].values())
    assert found["disk"]["checkpoint"] == 3 * found["disk"]["adapter"] == 12 * found["total_trainable"]


def test_every_choice_of_groups_and_ranks_has_a_peak_in_each_precision() -> None:
    outlined = outline(architecture("tiny/deepseek_v3"))
    spec = AdapterSpec(target_modules=["routed"], exclude_modules=[], experts={1: (0, 1)})
    table = list(choices(outlined, spec, LOAD, process=0, steps=2, ranks=(2, 4)))
    assert len(table) == 2 * len(target_sets(outlined)) == 8
    for row in table:
        assert row.peaks["bfloat16"] < row.peaks["float32"]
        assert row.peaks["float32 checkpointed"] <= row.peaks["float32"]
    routed = next(row for row in table if row.targets == ("attention", "routed") and row.r == 2)
    attention = next(row for row in table if row.targets == ("attention",) and row.r == 2)
    assert routed.trainable - attention.trainable == 2 * 2 * (2 * 64 + 3 * 32)  # the two chosen experts


def test_dense_families_are_offered_no_experts() -> None:
    assert target_sets(outline(architecture("tiny/llama"))) == [("attention",), ("all-linear",)]


def test_the_dtype_on_disk_defaults_to_that_of_the_run() -> None:
    outlined, spec = outline(architecture("tiny/llama")), AdapterSpec()
    load = Workload(tokens=2, longest=2, device="cpu", dtype=torch.float32)
    same = predict(outlined, spec, load, process=0, tokens=2, steps=1)
    other = predict(outlined, spec, load, process=0, tokens=2, steps=1, stored=torch.bfloat16)
    assert same.memory.parts["file"] == 0
    assert other.memory.peak >= same.memory.peak
