"""PEFT's layout as names and tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.lowrank import LowRank
from seektune.adapters.peft_layout import config_of, matches, parts_of, targets_of, unsupported
from seektune.config.adapter import AdapterSpec

SITE = "model.layers.1.mlp.experts"
LINEARS = [
    f"model.layers.{i}.{name}"
    for i in range(3)
    for name in ("self_attn.q_proj", "self_attn.o_proj", "mlp.up")
]
CONFIG = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "target_parameters": None}


def _experts(r: int = 2) -> ExpertsLowRank:
    delta = ExpertsLowRank((5, 6, 4), r=r, scaling=1.5)
    delta.reset(False, torch.Generator().manual_seed(0))
    return delta


def test_a_linear_is_one_pair_under_its_own_name() -> None:
    (part,) = parts_of("model.q_proj", LowRank(8, 6, r=2, scaling=1.0))
    assert part.names == (
        "base_model.model.model.q_proj.lora_A.weight",
        "base_model.model.model.q_proj.lora_B.weight",
    )
    assert part.target == "model.q_proj.weight"
    assert part.shapes == ((2, 8), (6, 2))
    assert part.pack() == (part.a, part.b)


def test_experts_are_two_pairs_gate_up_inside_and_down_outside() -> None:
    parts = parts_of(SITE, _experts())
    assert [part.path for part in parts] == [f"{SITE}.base_layer", SITE]
    assert [part.target for part in parts] == [f"{SITE}.gate_up_proj", f"{SITE}.down_proj"]
    assert [part.shapes for part in parts] == [((10, 6), (8, 10)), ((10, 4), (6, 10))]
    for part in parts:
        assert tuple(tensor.shape for tensor in part.pack()) == part.shapes


def test_a_is_stored_expert_major_and_b_rank_major() -> None:
    part = parts_of(SITE, _experts())[0]
    a, b = part.pack()
    for expert in range(5):
        for rank in range(2):
            assert torch.equal(a[expert * 2 + rank], part.a[expert, rank])
            assert torch.equal(b[:, rank * 5 + expert], part.b[expert, :, rank])


def test_unpacking_inverts_packing() -> None:
    for part in parts_of(SITE, _experts()):
        assert all(map(torch.equal, part.unpack(*part.pack()), (part.a, part.b)))


def test_one_product_alone_stands_under_the_outer_name_cut_to_its_rank() -> None:
    (part,) = parts_of(SITE, _experts(r=3), {f"{SITE}.gate_up_proj": (2, 0.5)})
    assert part.path == SITE
    assert (part.r, part.scaling) == (2, 0.5)
    assert part.shapes == ((10, 6), (8, 10))


def test_the_config_shortens_names_only_where_that_selects_the_same() -> None:
    spec = AdapterSpec(r=2, lora_alpha=2, lora_dropout=0.1)
    parts = [part for name in LINEARS if "q_proj" in name for part in parts_of(name, LowRank(4, 4, 2, 1.0))]
    assert config_of(spec, parts, LINEARS, (), "base")["target_modules"] == ["q_proj"]
    assert config_of(spec, parts[:2], LINEARS, (), "base")["target_modules"] == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
    ]


def test_dropout_is_written_as_zero_beside_target_parameters() -> None:
    spec = AdapterSpec(r=2, lora_alpha=2, lora_dropout=0.1)
    parts = parts_of("model.layers.0.mlp.up", LowRank(4, 4, 2, 1.0))
    as_module = config_of(spec, parts, LINEARS, (), "base")
    as_parameter = config_of(spec, parts, LINEARS, {"model.layers.0.mlp.up"}, "base")
    assert (as_module["lora_dropout"], as_module["target_parameters"]) == (0.1, None)
    assert (as_parameter["lora_dropout"], as_parameter["target_modules"]) == (0.0, [])
    assert as_parameter["target_parameters"] == ["model.layers.0.mlp.up.weight"]


@pytest.mark.parametrize("rslora", [False, True])
def test_ranks_and_scalings_that_differ_come_back_through_the_patterns(rslora: bool) -> None:
    spec = AdapterSpec(r=2, lora_alpha=4, use_rslora=rslora)
    plain, other = LowRank(4, 4, 2, spec.scaling), LowRank(4, 4, 8, 0.75)
    names = LINEARS[:2]
    parts = [
        part for name, delta in zip(names, (plain, other), strict=True) for part in parts_of(name, delta)
    ]
    config = config_of(spec, parts, LINEARS, (), "base")
    found = targets_of(config, LINEARS, [])
    assert found[f"{names[0]}.weight"] == (2, spec.scaling)
    assert found[f"{names[1]}.weight"] == (8, pytest.approx(0.75))
    assert len(config["rank_pattern"]) == len(config["alpha_pattern"]) == 1


@pytest.mark.parametrize(
    ("extra", "layers"),
    [
        ({}, {0, 1, 2}),
        ({"layers_to_transform": [0, 2]}, {0, 2}),
        ({"layers_to_transform": 1, "layers_pattern": "layers"}, {1}),
        ({"layers_to_transform": [1], "layers_pattern": ["blocks"]}, set()),
        ({"exclude_modules": ["layers.1.self_attn.q_proj"]}, {0, 2}),
        ({"target_modules": r".*\.[12]\..*q_proj"}, {1, 2}),
    ],
)
def test_modules_are_selected_as_peft_selects_them(extra: dict[str, Any], layers: set[int]) -> None:
    found = targets_of(CONFIG | extra, LINEARS, [])
    assert set(found) == {f"model.layers.{i}.self_attn.q_proj.weight" for i in layers}


def test_parameters_match_by_their_end_after_a_dot() -> None:
    config = CONFIG | {"target_modules": [], "target_parameters": ["down_proj", "gate.weight"]}
    names = [f"{SITE}.down_proj", "m.mlp.down_proj.weight", "m.gate.weight", "m.up_gate.weight"]
    assert list(targets_of(config, [], names)) == [f"{SITE}.down_proj", "m.gate.weight"]
    assert matches(["a"], "b.a")
    assert not matches(["a"], "ba")
    assert not matches("a", "b.a")


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"some_future_option": 1}, "some_future_option"),
    ],
)
def test_what_is_more_than_a_low_rank_delta_is_named(extra: dict[str, Any], words: str) -> None:
    assert unsupported({"peft_type": "LORA"} | CONFIG) == []
    (line,) = unsupported({"peft_type": "LORA"} | CONFIG | extra)
    assert words in line
