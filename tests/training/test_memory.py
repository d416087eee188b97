"""The highest moment of a run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from seektune.config.adapter import AdapterSpec
from seektune.models.load import Loaded
from seektune.models.outline import architecture, outline
from seektune.training.footprint import Workload
from seektune.training.memory import Memory, memory

SPEC = AdapterSpec(r=16, target_modules=["attention"])
LOAD = Workload(tokens=4096, longest=1024)


@pytest.fixture(scope="module")
def lite() -> Loaded:
    return outline(architecture("deepseek-ai/DeepSeek-V2-Lite"))


def of(model: Loaded, load: Workload = LOAD, spec: AdapterSpec = SPEC, stored: str = "bfloat16") -> Memory:
    return memory(model, spec, load, process=10**9, stored=getattr(torch, stored), steps=100)


def test_the_peak_is_the_sum_of_its_parts_and_weights_are_exact(lite: Loaded) -> None:
    found = of(lite)
    assert found.peak == sum(found.parts.values())
    assert found.parts["weights"] == 15_706_484_224 * 2
    assert found.parts["optimiser"] == 2 * found.parts["adapters"] > 0


def test_checkpointing_trades_activations_for_one_layers_workspace(lite: Loaded) -> None:
    plain, again = of(lite), of(lite, replace(LOAD, gradient_checkpointing=True))
    inputs = 27 * 4096 * 2048 * 2
    assert plain.parts["activations"] > 5 * again.parts["activations"] > 5 * inputs
    assert again.parts["workspace"] > plain.parts["workspace"]
    assert again.peak < plain.peak


def test_checkpointing_every_second_layer_lies_half_way(lite: Loaded) -> None:
    none, half, every = (
        of(lite, replace(LOAD, gradient_checkpointing=n > 0, every_n_layers=n or 1)) for n in (0, 2, 1)
    )
    saved = none.parts["activations"] - every.parts["activations"]
    assert none.parts["activations"] - half.parts["activations"] == pytest.approx(saved / 2, rel=0.1)
    assert none.peak > half.peak > every.peak


def test_gradients_stay_through_the_forward_only_when_they_are_accumulated(lite: Loaded) -> None:
    assert of(lite).parts["gradients"] == 0
    accumulated = of(lite, replace(LOAD, gradient_accumulation_steps=4))
    assert accumulated.parts["gradients"] == accumulated.parts["adapters"]


def test_a_large_adapter_on_a_short_row_peaks_in_the_update(lite: Loaded) -> None:
    spec = AdapterSpec(r=64, target_modules=["routed"])
    found = of(lite, replace(LOAD, tokens=8, longest=8), spec)
    assert found.moment == "update"
    assert found.parts["gradients"] == found.parts["adapters"]


def test_a_cpu_that_converts_the_checkpoint_peaks_while_loading(lite: Loaded) -> None:
    short = replace(LOAD, tokens=8, longest=8, device="cpu", dtype=torch.float32)
    found = of(lite, short)
    assert found.moment == "loading"
    assert found.parts["file"] >= 15_706_484_224 * 2
    assert of(lite, replace(short, device="cuda")).parts["file"] == 0


def test_on_a_cpu_fused_experts_lie_beside_the_file_they_were_copied_from(lite: Loaded) -> None:
    experts = 14_394_851_328 * 2
    found = of(lite, replace(LOAD, device="cpu"))
    assert found.parts["file"] == experts
    assert (
        of(outline(architecture("deepseek-ai/deepseek-llm-7b-base")), replace(LOAD, device="cpu")).parts[
            "file"
        ]
        == 0
    )


def test_half_precision_experts_on_a_cpu_fill_the_kernel_cache(lite: Loaded) -> None:
    cpu = replace(LOAD, device="cpu")
    assert 1e9 < of(lite, cpu).parts["kernels"] < 1.3e9
    assert of(lite).parts["kernels"] == 0
    assert of(lite, replace(cpu, dtype=torch.float32)).parts.get("kernels", 0) == 0


def test_checkpoints_are_written_from_a_copy_in_main_memory(lite: Loaded) -> None:
    found = of(lite, replace(LOAD, device="cpu", saves=True))
    assert found.parts["checkpoint"] == 3 * found.parts["adapters"]
    assert of(lite, replace(LOAD, saves=True)).parts["checkpoint"] == 0
