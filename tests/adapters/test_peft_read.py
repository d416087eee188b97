"""Reading what PEFT writes, by the real PEFT, and refusing what cannot be read safely."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seektune.adapters.attach import deltas_of, spec_of
from seektune.adapters.peft_read import linears_of, refuse_differences
from seektune.adapters.store import load_adapter, save_adapter
from seektune.errors import AdapterError
from seektune.models.families import family_of
from seektune.models.load import load_model
from seektune.models.tiny import tiny_model

Logits = Callable[[nn.Module], Tensor]
MLPS = ["gate_proj", "up_proj", "down_proj"]
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
V4_ATTENTION = r"model\.layers\.\d+\.self_attn\.(q_a_proj|q_b_proj|kv_proj|o_b_proj)"

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
    "ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning",
)


def _saved_by_peft(name: str, folder: Path, logits: Logits, rows: Tensor, **config: Any) -> Tensor:
    """Train a few steps with PEFT, save, return the logits; float64, with the class's own experts loop."""
    torch.manual_seed(0)
    model = tiny_model(name, dtype=torch.float64)[0]
    if family_of(model.config.model_type).experts:
        model.set_experts_implementation("eager")
    adapted = get_peft_model(model, LoraConfig(**({"r": 4, "lora_alpha": 8, "target_modules": []} | config)))
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=2e-2)
    adapted.train()
    for _ in range(3):
        adapted(input_ids=rows, labels=rows, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.eval().save_pretrained(folder)
    return logits(adapted)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("llama", {"target_modules": "all-linear", "lora_dropout": 0.1}),
        ("llama", {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]}),
        ("llama", {"target_modules": r".*\.(o_proj|up_proj)", "use_rslora": True}),
        ("llama", {"target_modules": ["q_proj", *MLPS], "rank_pattern": {"up_proj": 2, "1.*q_proj": 6}}),
        ("llama", {"target_modules": MLPS, "alpha_pattern": {"layers.0.mlp.up_proj": 3}}),
        ("qwen2", {"target_modules": "all-linear", "lora_dropout": 0.1}),
        ("deepseek_v2", {"target_modules": ["o_proj", *MLPS]}),  # which PEFT turns into the routed experts
        ("deepseek_v2_lite", {"target_modules": ["q_proj", "kv_b_proj"], "lora_dropout": 0.1}),
        ("deepseek_v3", {"target_modules": MLPS, "use_rslora": True}),
        ("deepseek_v3", {"target_modules": ["q_a_proj"], "target_parameters": EXPERTS}),
        ("deepseek_v3", {"target_parameters": ["experts.down_proj"]}),
        ("deepseek_v3", {"target_parameters": ["experts.gate_up_proj"]}),
        ("deepseek_v3", {"target_parameters": [f"shared_experts.{name}.weight" for name in MLPS]}),
        (
            "deepseek_v32",
            {"target_modules": ["q_b_proj", "kv_b_proj"], "exclude_modules": r".*\.indexer\..*"},
        ),
        ("deepseek_v32", {"target_modules": ["o_proj", *MLPS]}),
        ("deepseek_v4", {"target_modules": V4_ATTENTION, "target_parameters": EXPERTS}),
        ("deepseek_vl", {"target_modules": r".*language_model.*(q|v)_proj", "lora_dropout": 0.1}),
    ],
)
def test_what_peft_saves_loads_with_equal_logits(
    name: str, config: dict[str, Any], logits: Logits, rows: Tensor, tmp_path: Path
) -> None:
    theirs = _saved_by_peft(name, tmp_path / "peft", logits, rows, **config)
    loaded = load_model(f"tiny/{name}", dtype="float64")
    base = logits(loaded.model)
    load_adapter(loaded, tmp_path / "peft")
    assert (theirs - base).abs().max() >= 0.1
    assert (logits(loaded.model) - theirs).abs().max() <= 1e-5
    save_adapter(loaded, tmp_path / "ours")
    again = load_adapter(load_model(f"tiny/{name}", dtype="float64"), tmp_path / "ours")
    assert (logits(again.model) - theirs).abs().max() <= 1e-5


def test_an_experts_product_that_peft_left_out_can_still_train(
    logits: Logits, rows: Tensor, tmp_path: Path
) -> None:
    _saved_by_peft("deepseek_v3", tmp_path, logits, rows, target_parameters=["experts.down_proj"])
    loaded = load_adapter(load_model("tiny/deepseek_v3"), tmp_path)
    (delta,) = deltas_of(loaded, "default").values()
    assert delta.gate_up_A.all()
    assert not delta.gate_up_B.any()
    assert delta.down_B.any()


def test_the_spec_of_a_peft_folder_names_every_site(logits: Logits, rows: Tensor, tmp_path: Path) -> None:
    _saved_by_peft("llama", tmp_path, logits, rows, target_modules=["q_proj"], lora_dropout=0.25, r=3)
    spec = spec_of(load_adapter(load_model("tiny/llama"), tmp_path))
    assert spec.target_modules == tuple(f"model.layers.{i}.self_attn.q_proj" for i in range(2))
    assert (spec.r, spec.lora_alpha, spec.lora_dropout) == (3, 8, 0.25)


@pytest.fixture
def old_adapter(tmp_path: Path) -> Callable[..., Path]:
    """A folder as PEFT 0.18.1 writes it for target_modules of linears: names and shapes of the modules."""

    def write(
        targets: list[str], skip: str = "-", extra: dict[str, Tensor] | None = None, **config: Any
    ) -> Path:
        torch.manual_seed(1)
        tensors = dict(extra or {})
        for name, module in tiny_model("deepseek_v3")[0].named_modules():
            if isinstance(module, nn.Linear) and name.endswith(tuple(targets)) and skip not in name:
                key = f"base_model.model.{name}"
                tensors[f"{key}.lora_A.weight"] = 0.3 * torch.randn(4, module.in_features)
                tensors[f"{key}.lora_B.weight"] = 0.3 * torch.randn(module.out_features, 4)
        written = {"peft_type": "LORA", "peft_version": "0.18.1", "r": 4, "lora_alpha": 8}
        written |= {"target_modules": targets, "target_parameters": None} | config
        (tmp_path / "adapter_config.json").write_text(json.dumps(written))
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        return tmp_path

    return write


def test_an_adapter_of_peft_0_18_on_dense_and_shared_mlps_loads_as_it_was_trained(
    old_adapter: Callable[..., Path], logits: Logits
) -> None:
    folder = old_adapter(["o_proj", *MLPS])
    loaded = load_adapter(load_model("tiny/deepseek_v3", dtype="float64"), folder)
    model = tiny_model("deepseek_v3", dtype=torch.float64)[0]
    model.set_experts_implementation("eager")
    tensors = load_file(folder / "adapter_model.safetensors")
    with torch.no_grad():
        for key in [key for key in tensors if "lora_A" in key]:
            name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            delta = tensors[key.replace("lora_A", "lora_B")].double() @ tensors[key].double()
            model.get_submodule(name).weight += 2 * delta
    assert len(deltas_of(loaded, "default")) == 2 + 3 + 3
    assert (logits(model) - logits(loaded.model)).abs().max() <= 1e-5


def test_an_adapter_that_fits_neither_reading_of_the_mlp_names_is_refused_with_the_reason(
    old_adapter: Callable[..., Path],
) -> None:
    folder = old_adapter(["o_proj", *MLPS], skip="shared_experts")
    with pytest.raises(AdapterError, match=r"up to 0\.18 means the dense and shared MLPs") as caught:
        load_adapter(load_model("tiny/deepseek_v3"), folder)
    assert str(caught.value).count("missing: ") == 6


def test_fused_experts_of_peft_0_18_are_refused_because_they_lie_transposed(
    old_adapter: Callable[..., Path],
) -> None:
    folder = old_adapter([], target_parameters=EXPERTS, extra={"x": torch.zeros(1)})
    with pytest.raises(
        AdapterError, match=r"PEFT 0\.18\.1; before 0\.19 fused experts were stored transposed"
    ):
        load_adapter(load_model("tiny/deepseek_v3"), folder)


def test_one_pair_per_expert_is_refused_with_the_reason(old_adapter: Callable[..., Path]) -> None:
    key = "base_model.model.model.layers.1.mlp.experts.0.up_proj.lora_A.weight"
    folder = old_adapter(["o_proj", *MLPS], extra={key: torch.zeros(4, 64)})
    with pytest.raises(AdapterError, match="one pair per expert"):
        load_adapter(load_model("tiny/deepseek_v3"), folder)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"target_modules": ["lm_head"]}, r"lm_head.weight: the output head"),
        ({"target_modules": [], "target_parameters": ["gate.weight"]}, r"mlp.gate.weight: the router stays"),
        ({"target_modules": ["nothing"]}, "nothing that adapter_config.json targets exists"),
        ({"target_modules": "("}, "adapter_config.json is damaged"),
        ({"rank_pattern": {"q_a_proj": "four"}}, "adapter_config.json is damaged"),
        ({"rank_pattern": {"q_a_proj": 4.5}}, "rank 4.5"),
        ({"lora_alpha": 0}, "alpha 0"),
        ({"lora_alpha": float("nan")}, "alpha nan"),
        ({"r": -4}, "rank -4"),
        ({"r": 10**12}, "no tensor is large enough for rank 1000000000000"),
        ({"lora_dropout": 2}, "lora_dropout"),
        ({"use_dora": True}, "no plain LoRA adapter, it has use_dora: True"),
    ],
)
def test_a_config_that_cannot_be_followed_is_refused_with_the_reason(
    config: dict[str, Any], words: str, old_adapter: Callable[..., Path]
) -> None:
    folder = old_adapter(["q_a_proj"], **config)
    with pytest.raises(AdapterError, match=words):
        load_adapter(load_model("tiny/deepseek_v3"), folder)


def test_one_error_lists_every_difference() -> None:
    expected = {"a": (2, 3), "b": (1,), "c": (1,), "d": (1,), "e": (1,)}
    found = {
        "a": torch.zeros(3, 2),
        "b": torch.zeros(1, dtype=torch.int32),
        "c": torch.tensor([float("nan")]),
        "d": torch.tensor([float("inf")]),
        "x": torch.zeros(1),
    }
    with pytest.raises(AdapterError) as caught:
        refuse_differences(Path("folder"), expected, found)
    assert str(caught.value).splitlines()[1:] == [
        "  missing: e",
        "  shape: a is (3, 2), not (2, 3)",
        "  dtype: b is torch.int32, no float of 16 to 64 bits",
        "  not finite: c",
        "  not finite: d",
        "  unknown: x",
    ]
    refuse_differences(Path("folder"), {"a": (1,)}, {"a": torch.zeros(1, dtype=torch.bfloat16)})


def test_linears_keep_their_names_when_adapted(adapted: Callable[..., Any]) -> None:
    names = linears_of(tiny_model("deepseek_v3")[0])
    assert linears_of(adapted("deepseek_v3", target_modules=["attention", "routed"]).model) == names
    assert "model.layers.1.mlp.shared_experts.up_proj" in names
