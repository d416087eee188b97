"""The merged model is the base plus the adapter, as a checkpoint that needs nothing of ours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from seektune.adapters.attach import attach, disabled
from seektune.adapters.store import Stored, read_adapter, save_adapter
from seektune.config.adapter import AdapterSpec
from seektune.errors import ConfigError
from seektune.export.merged import export_merged
from seektune.models.load import Loaded, load_model
from seektune.models.tiny import tiny_model

Build = Callable[..., tuple[Loaded, Stored]]
Logits = Callable[[nn.Module], Tensor]

EVERYTHING = {"target_modules": ["attention", "dense", "shared", "routed"]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama with rsLoRA": ("llama", {"use_rslora": True}),
    "qwen2, whose projections have biases": ("qwen2", {}),
    "V2": ("deepseek_v2", EVERYTHING),
    "V2-Lite, chosen experts": ("deepseek_v2_lite", EVERYTHING | {"experts": {1: [0, 3, 7]}}),
    "V3": ("deepseek_v3", EVERYTHING),
    "V3.2": ("deepseek_v32", EVERYTHING),
    "V4": ("deepseek_v4", {"target_modules": ["attention", "shared", "routed"]}),
}


@pytest.mark.parametrize(("name", "spec"), CASES.values(), ids=CASES)
def test_transformers_alone_gets_the_adapted_model_s_logits_from_the_folder(
    name: str, spec: dict[str, Any], adapted: Build, logits: Logits, tmp_path: Path
) -> None:
    live, stored = adapted(name, **spec)
    expected = logits(live.model)
    with disabled(live):
        assert (logits(live.model) - expected).abs().max() > 0.1
    export_merged(load_model(f"tiny/{name}", dtype="float64"), stored, tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float64)
    if live.family.experts:
        merged.set_experts_implementation("eager")  # the grouped product knows no float64
    assert (logits(merged) - expected).abs().max() < 1e-9
    assert load_model(tmp_path / "out").tokenizer is not None


def test_a_bfloat16_base_is_summed_in_float32_and_rounded_once(tmp_path: Path) -> None:
    spec = AdapterSpec(r=4, target_modules=("q_proj",), init_lora_weights=False)
    live = attach(load_model("tiny/llama"), spec)
    stored = read_adapter(live, save_adapter(live, tmp_path / "adapter"))
    export_merged(load_model("tiny/llama", dtype="bfloat16"), stored, tmp_path / "out")
    merged = load_model(tmp_path / "out").model
    base = tiny_model("llama", dtype=torch.bfloat16)[0]
    for site, delta in stored.deltas.items():
        change = delta.scaling * delta.lora_B @ delta.lora_A
        expected = (base.get_submodule(site).weight.float() + change).bfloat16()
        assert torch.equal(merged.get_submodule(site).weight, expected)
    others = set(base.state_dict()) - {f"{site}.weight" for site in stored.deltas}
    assert all(torch.equal(base.state_dict()[name], merged.state_dict()[name]) for name in others)


def test_what_is_there_is_not_replaced(adapted: Build, tmp_path: Path) -> None:
    loaded, stored = adapted("llama")
    with pytest.raises(ConfigError, match="exists already"):
        export_merged(loaded, stored, tmp_path)
