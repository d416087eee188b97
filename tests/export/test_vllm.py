"""What is written for vLLM, read by a reader that knows vLLM's rules only: names, one rank, one alpha."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from seektune.adapters.attach import disabled
from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.lowrank import LowRank
from seektune.adapters.store import Stored
from seektune.errors import AdapterError, ConfigError
from seektune.export.vllm import export_vllm
from seektune.models.load import Loaded
from seektune.models.tiny import tiny_model

Build = Callable[..., tuple[Loaded, Stored]]
Logits = Callable[[nn.Module], Tensor]

LINEAR = re.compile(
    r"base_model\.model\.(model\.layers\.\d+\.(?:self_attn\.(?:[qkvo]_proj|q_[ab]_proj|kv_a_proj_with_mqa)"
    r"|mlp\.(?:shared_experts\.|experts\.\d+\.)?(?:gate|up|down)_proj))\.lora_([AB])\.weight"
)
MLA = {"exclude_modules": ["kv_b_proj"]}
EVERYTHING = {"target_modules": ["attention", "dense", "shared", "routed"]} | MLA
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama with rsLoRA": ("llama", {"use_rslora": True}),
    "qwen2": ("qwen2", {}),
    "V2": ("deepseek_v2", EVERYTHING),
    "V2-Lite, chosen experts": ("deepseek_v2_lite", EVERYTHING | {"experts": {1: [0, 3, 7]}}),
    "V3": ("deepseek_v3", EVERYTHING),
    "V3, chosen experts alone": ("deepseek_v3", {"target_modules": ["routed"], "experts": {1: [2]}}),
}


def read(out: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Module name → s·BA in float64 as vLLM takes it from the one adapter there, and its configuration."""
    (folder,) = (out / "adapters").iterdir()
    config = json.loads((folder / "adapter_config.json").read_text())
    pairs: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for key, tensor in load_file(folder / "adapter_model.safetensors").items():
        match = LINEAR.fullmatch(key)
        assert match, f"vLLM would ignore or refuse {key}"
        assert tensor.shape[0 if match[2] == "A" else 1] == config["r"]
        pairs[match[1]][match[2]] = tensor.double()
    scale = config["lora_alpha"] / config["r"]
    return {module: scale * pair["B"] @ pair["A"] for module, pair in pairs.items()}, config


def merged(name: str, dense: dict[str, Tensor]) -> nn.Module:
    """The base in float64 with the dense deltas added to its weights."""
    model = tiny_model(name, dtype=torch.float64)[0]
    model.set_experts_implementation("eager")
    with torch.no_grad():
        for module, delta in dense.items():
            if expert := re.fullmatch(r"(.*\.experts)\.(\d+)\.(gate|up|down)_proj", module):
                experts, index = model.get_submodule(expert[1]), int(expert[2])
                width = delta.shape[0]
                rows = {"gate": slice(0, width), "up": slice(width, None), "down": slice(None)}[expert[3]]
                fused = experts.down_proj if expert[3] == "down" else experts.gate_up_proj
                fused[index, rows] += delta
            else:
                model.get_submodule(module).weight += delta
    return model


def dense_of(stored: Stored) -> dict[str, Tensor]:
    """Module name → s·BA in float64 of the live deltas, for adapted experts only."""
    dense = {}
    for site, delta in stored.deltas.items():
        if isinstance(delta, LowRank):
            dense[site] = delta.scaling * delta.lora_B.double() @ delta.lora_A.double()
            continue
        gate_up = delta.scaling * delta.gate_up_B.double() @ delta.gate_up_A.double()
        down = delta.scaling * delta.down_B.double() @ delta.down_A.double()
        for row, expert in enumerate(delta.experts):
            width = gate_up.shape[1] // 2
            dense[f"{site}.{expert}.gate_proj"] = gate_up[row, :width]
            dense[f"{site}.{expert}.up_proj"] = gate_up[row, width:]
            dense[f"{site}.{expert}.down_proj"] = down[row]
    return {module: delta.detach() for module, delta in dense.items()}


@pytest.mark.parametrize(("name", "spec"), CASES.values(), ids=CASES)
def test_what_vllm_reads_is_the_live_adapter_and_no_key_is_one_it_drops(
    name: str, spec: dict[str, Any], adapted: Build, logits: Logits, tmp_path: Path
) -> None:
    loaded, stored = adapted(name, **spec)
    export_vllm(loaded, stored, "run", tmp_path / "out")
    found, _ = read(tmp_path / "out")

    live = dense_of(stored)
    assert set(live) <= set(found)
    for module, delta in found.items():
        expected = live.get(module, torch.zeros_like(delta))
        assert (delta - expected).abs().max() <= 1e-14 * (1 + expected.abs().max()), module

    with disabled(loaded):
        base = logits(loaded.model)
    output = logits(merged(name, found))
    assert (output - base).abs().max() > 0.1
    assert (output - logits(loaded.model)).abs().max() < 1e-9


def test_every_expert_of_an_adapted_layer_is_there_and_those_not_chosen_are_zero(
    adapted: Build, tmp_path: Path
) -> None:
    loaded, stored = adapted("deepseek_v3", target_modules=["routed"], experts={1: [2, 5]})
    export_vllm(loaded, stored, "run", tmp_path / "out")
    found, config = read(tmp_path / "out")
    names = [f"model.layers.1.mlp.experts.{e}.{p}_proj" for e in range(8) for p in ("gate", "up", "down")]
    assert sorted(found) == sorted(names)
    assert {module for module, delta in found.items() if delta.any()} == {
        name for name in names if ".2." in name or ".5." in name
    }
    assert config["target_modules"] == ["down_proj", "gate_proj", "up_proj"]


def test_different_ranks_and_scalings_become_one_of_each(adapted: Build, tmp_path: Path) -> None:
    loaded, stored = adapted("llama", r=8)
    deltas = dict(stored.deltas)
    changed = next(site for site in deltas if site.endswith("layers.1.self_attn.q_proj"))
    narrow = LowRank(64, 64, 2, scaling=3.0)
    narrow.reset(False, torch.Generator().manual_seed(1))
    deltas[changed] = narrow
    mixed = Stored(stored.spec, deltas, stored.content_hash)
    export_vllm(loaded, mixed, "run", tmp_path / "out")
    found, config = read(tmp_path / "out")
    assert (config["r"], config["lora_alpha"]) == (8, 6)
    for module, expected in dense_of(mixed).items():
        assert (found[module] - expected).abs().max() <= 1e-6 * (1 + expected.abs().max())


def test_the_configuration_says_no_more_than_vllm_reads(adapted: Build, tmp_path: Path) -> None:
    loaded, stored = adapted("llama", use_rslora=True, target_modules=["q_proj"])
    served = export_vllm(loaded, stored, "run", tmp_path / "out")
    assert served == f"run@{stored.content_hash[:16]}"
    _, config = read(tmp_path / "out")
    assert config["lora_alpha"] / config["r"] == pytest.approx(6 / 4**0.5)
    assert config["target_modules"] == ["q_proj"]
    assert config["base_model_name_or_path"] == "org/base"
    assert config["lora_dropout"] == 0.0
    assert config["bias"] == "none"
    assert not config["use_rslora"]
    assert not {"rank_pattern", "alpha_pattern", "target_parameters", "modules_to_save"} & set(config)
    script = (tmp_path / "out" / "serve.sh").read_text()
    assert "--max-lora-rank 8 --max-loras 1" in script
    assert (tmp_path / "out" / "serve.sh").stat().st_mode & 0o111
    assert served in (tmp_path / "out" / "README.md").read_text()


def test_a_lora_on_kv_b_proj_is_refused_with_the_reason_and_the_way_out(
    adapted: Build, tmp_path: Path
) -> None:
    loaded, stored = adapted("deepseek_v2", target_modules=["attention"])
    with pytest.raises(AdapterError, match=r"(?s)layers\.0.*kv_b_proj and 1 more: .*exclude_modules"):
        export_vllm(loaded, stored, "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["deepseek_v32", "deepseek_v4", "deepseek_vl"])
def test_a_generation_that_is_not_known_to_work_is_refused(name: str, adapted: Build, tmp_path: Path) -> None:
    loaded, stored = adapted(name, target_modules=["attention"])
    with pytest.raises(AdapterError, match=rf"{name} are not known to work in vLLM"):
        export_vllm(loaded, stored, "run", tmp_path / "out")


def test_a_router_an_embedding_and_a_rank_above_the_largest_are_refused_together(
    adapted: Build, tmp_path: Path
) -> None:
    loaded, stored = adapted("deepseek_v3", **EVERYTHING)
    extra = {"model.layers.1.mlp.gate": LowRank(64, 8, 1024, 1.0), "lm_head": LowRank(64, 264, 4, 1.0)}
    wrong = replace(stored, deltas={**stored.deltas, **extra})
    with pytest.raises(AdapterError, match=r"(?s)mlp\.gate: no part.*lm_head: no part.*rank 1024: .* 512"):
        export_vllm(loaded, wrong, "run", tmp_path / "out")


def test_a_tiny_base_is_one_that_vllm_does_not_have(adapted: Build, tmp_path: Path) -> None:
    loaded, stored = adapted("llama")
    with pytest.raises(AdapterError, match="vLLM has no tiny/llama"):
        export_vllm(replace(loaded, source="tiny/llama"), stored, "run", tmp_path / "out")


def test_a_base_in_a_folder_is_served_by_its_whole_path_under_the_name_of_the_run(
    adapted: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "a base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    loaded, stored = adapted("llama")
    export_vllm(replace(loaded, source="models/a base"), stored, "run", tmp_path / "out")
    script = (tmp_path / "out" / "serve.sh").read_text()
    assert f"base='{tmp_path}/models/a base'\n" in script
    assert "--served-model-name 'models/a base'" in script
    # vLLM's resolver passes over an adapter whose base is not spelt as the one that it opened.
    assert read(tmp_path / "out")[1]["base_model_name_or_path"] == f"{tmp_path}/models/a base"


def test_the_name_changes_with_the_content(adapted: Build, tmp_path: Path) -> None:
    loaded, stored = adapted("llama")
    other = replace(stored, content_hash="f" * 64)
    first = export_vllm(loaded, stored, "run", tmp_path / "first")
    assert export_vllm(loaded, other, "run", tmp_path / "second") == "run@" + "f" * 16 != first
    with pytest.raises(ConfigError, match="exists already"):
        export_vllm(loaded, stored, "run", tmp_path / "first")


def test_an_adapter_that_is_not_finite_is_not_written(adapted: Build, tmp_path: Path) -> None:
    loaded, stored = adapted("deepseek_v3", **EVERYTHING)
    experts = next(delta for delta in stored.deltas.values() if isinstance(delta, ExpertsLowRank))
    with torch.no_grad():
        experts.down_B[3, 0, 0] = float("nan")
    with pytest.raises(AdapterError, match=r"not finite.*experts\.3\.down_proj\.lora_B"):
        export_vllm(loaded, stored, "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
