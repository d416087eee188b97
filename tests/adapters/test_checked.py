"""What an adapter read for serving is: matrices as a slot keeps them, and everything that is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from seektune.adapters.attach import attach, deltas_of
from seektune.adapters.checked import check_adapter
from seektune.adapters.folder import CONFIG, MANIFEST
from seektune.adapters.store import Limits, save_adapter
from seektune.config.adapter import AdapterSpec
from seektune.errors import AdapterError
from seektune.models.load import Loaded, load_model

LIMITS = Limits(max_rank=8, max_bytes=10**8, simple_patterns=True)


def saved(base: str, folder: Path, **spec: object) -> Loaded:
    settings = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "init_lora_weights": False} | spec
    loaded = attach(load_model(f"tiny/{base}"), AdapterSpec(**settings))
    save_adapter(loaded, folder)
    return loaded


def test_matrices_are_scaled_and_rounded_once_to_the_dtype_of_the_base(tmp_path):
    trained = saved(
        "deepseek_v3", tmp_path / "a", target_modules=["attention", "routed"], experts={1: (0, 3)}
    )
    base = load_model("tiny/deepseek_v3", dtype="bfloat16")
    checked = check_adapter(base, tmp_path / "a", "a", limits=LIMITS)
    deltas = deltas_of(trained, "default")
    assert checked.linears.keys() | checked.experts.keys() == deltas.keys()
    for site, (a, b) in checked.linears.items():
        assert torch.equal(a, deltas[site].lora_A.bfloat16())
        assert torch.equal(b, (3 * deltas[site].lora_B).bfloat16().t())
    ((site, lora),) = checked.experts.items()
    assert torch.equal(lora.down_b, (3 * deltas[site].down_B).bfloat16())
    assert lora.places[:4] == (0, -1, -1, 1)
    assert checked.bytes == 2 * sum(p.numel() for delta in deltas.values() for p in delta.parameters())


def test_the_key_is_the_name_and_the_content(tmp_path):
    saved("llama", tmp_path / "a")
    base = load_model("tiny/llama")
    one, two = (check_adapter(base, tmp_path / "a", name, limits=LIMITS) for name in ("one", "two"))
    manifest = json.loads((tmp_path / "a" / MANIFEST).read_text())
    assert one.content_hash == two.content_hash == manifest["content_hash"]
    assert (one.key, two.key) == (f"one@{one.content_hash[:16]}", f"two@{two.content_hash[:16]}")


@pytest.mark.parametrize(
    "name", ["", "a b", "a/b", "a@1", ".", "..", ".a", "-a", "a\x00", "é", "a\n", "x" * 129]
)
def test_a_name_that_is_no_name_is_refused(name):
    with pytest.raises(AdapterError, match="cannot name an adapter"):
        check_adapter(load_model("tiny/llama"), "anywhere", name, limits=LIMITS)


def test_vision_adapters_are_refused_with_the_reason(tmp_path):
    saved("deepseek_vl", tmp_path / "eyes", target_modules=["vision", "attention"])
    with pytest.raises(AdapterError, match="sees images"):
        check_adapter(load_model("tiny/deepseek_vl"), tmp_path / "eyes", "eyes", limits=LIMITS)


def test_half_precision_that_overflows_is_refused(tmp_path):
    saved("llama", tmp_path / "huge", lora_alpha=4e6)
    with pytest.raises(AdapterError, match=r"overflows in torch\.float16"):
        check_adapter(load_model("tiny/llama", dtype="float16"), tmp_path / "huge", "huge", limits=LIMITS)


@pytest.mark.parametrize("where", ["target_modules", "rank_pattern", "layers_pattern"])
def test_an_endless_pattern_is_refused_before_it_is_matched(where, tmp_path):
    saved("llama", tmp_path / "a")
    endless = "(.*)*" * 10 + "x"
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    config[where] = {endless: 2} if where == "rank_pattern" else endless
    (tmp_path / "a" / CONFIG).write_text(json.dumps(config))
    with pytest.raises(AdapterError, match="may take too long"):
        check_adapter(load_model("tiny/llama"), tmp_path / "a", "a", limits=LIMITS)


def test_an_endless_pattern_in_the_manifest_is_refused_too(tmp_path):
    saved("deepseek_v3", tmp_path / "a", target_modules=["routed"], experts={1: (0, 3)})
    manifest = json.loads((tmp_path / "a" / MANIFEST).read_text())
    manifest["spec"]["target_modules"] = "(a|a)" * 20
    (tmp_path / "a" / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(AdapterError, match="may take too long"):
        check_adapter(load_model("tiny/deepseek_v3"), tmp_path / "a", "a", limits=LIMITS)
