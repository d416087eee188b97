"""FLOPs of a row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from seektune.config.adapter import AdapterSpec
from seektune.models.load import Loaded
from seektune.models.outline import architecture, outline
from seektune.training.flops import flops
from seektune.training.footprint import Workload, terms

LOAD = Workload(tokens=1000, longest=1)


def of(model: Loaded, load: Workload = LOAD, targets: str | list[str] = "attention", r: int = 1) -> float:
    return flops(model, terms(model, AdapterSpec(target_modules=targets, r=r)), load)


@pytest.mark.parametrize(
    ("name", "active"),
    [
        ("deepseek-ai/DeepSeek-V2-Lite", 2.4e9),
        ("deepseek-ai/DeepSeek-V2", 21e9),
        ("deepseek-ai/DeepSeek-V3", 37e9),
        ("deepseek-ai/deepseek-llm-7b-base", 6.9e9 - 0.42e9),  # less the input embeddings
    ],
)
def test_a_token_costs_four_flops_for_each_parameter_it_meets(name: str, active: float) -> None:
    assert of(outline(architecture(name))) / 1000 == pytest.approx(4 * active, rel=0.03)


def test_checkpointing_costs_a_third_forward_and_attention_grows_with_the_sequence() -> None:
    model = outline(architecture("deepseek-ai/deepseek-llm-7b-base"))
    plain = of(model)
    assert of(model, replace(LOAD, gradient_checkpointing=True)) / plain == pytest.approx(1.5, rel=0.05)
    half = of(model, replace(LOAD, gradient_checkpointing=True, every_n_layers=2))
    assert half / plain == pytest.approx(1.25, rel=0.05)
    scores = of(model, replace(LOAD, longest=1001)) - plain
    assert scores == pytest.approx(3.5 * 30 * 1000 * 1000 * 32 * 256)  # layers, tokens, keys, heads, q and v


def test_layers_below_the_first_adapter_cost_a_forward_only() -> None:
    model = outline(architecture("tiny/llama"))
    every, last = (of(model, targets=targets) for targets in (r".*q_proj", r".*layers\.1\..*q_proj"))
    layer = 24_576 // 2 + 49_152 // 2  # attention and MLP of one
    assert every - last == pytest.approx(2 * 1000 * layer, rel=0.1)


def test_an_adapter_costs_six_flops_a_parameter_and_experts_only_those_that_are_met() -> None:
    model = outline(architecture("tiny/deepseek_v3"))
    linear = of(model, targets=["attention"], r=5) - of(model, targets=["attention"], r=1)
    assert linear == 6 * 1000 * 4 * 1200
    routed = of(model, targets=["routed"], r=5) - of(model, targets=["routed"], r=1)
    assert routed == 6 * 1000 * 4 * 2 * (2 * 64 + 3 * 32)  # K of 8 experts
