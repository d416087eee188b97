"""Every fused module against the modules it replaces, on the same model with the same adapter."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaMLP, LlamaRMSNorm

from seektune.adapters.attach import attach, detach, disabled
from seektune.adapters.fused import (
    FusedAttention,
    FusedLatentAttention,
    FusedMLP,
    FusedNorm,
    fuse,
    unfuse,
)
from seektune.config.adapter import AdapterSpec
from seektune.errors import ModelError
from seektune.models.load import Loaded, load_model

FUSED = (FusedNorm, FusedMLP, FusedAttention, FusedLatentAttention)
PACKING = ["llama", "qwen2", "deepseek_v2", "deepseek_v2_lite", "deepseek_v3"]
LATENT = [name for name in PACKING if name.startswith("deepseek")]
ROWS = torch.randint(3, 256, (2, 24), generator=torch.Generator().manual_seed(7))
PADDED = torch.ones_like(ROWS)
PADDED[0, :6] = 0
BOUNDS = torch.tensor([0, 9, 10, 24], dtype=torch.int32)
PACKED = {
    "input_ids": ROWS[:1],
    "position_ids": torch.cat([torch.arange(9), torch.arange(1), torch.arange(14)])[None],
    "cu_seq_lens_q": BOUNDS,
    "cu_seq_lens_k": BOUNDS,
    "max_length_q": 14,
    "max_length_k": 14,
}


def adapted(name: str, dtype: str = "float32", **spec: object) -> Loaded:
    """A tiny model with an adapter whose B is not zero, in training mode."""
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "lora_dropout": 0.1} | spec
    loaded = attach(load_model(f"tiny/{name}", dtype=dtype), AdapterSpec(**settings))
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.1)
    loaded.model.train()
    return loaded


def run(loaded: Loaded, **inputs: object) -> list[torch.Tensor]:
    """Logits and the gradient of every trainable parameter; dropout masks are those of one seed."""
    torch.manual_seed(3)
    logits = loaded.model(**({"input_ids": ROWS, "use_cache": False} | inputs)).logits
    trainable = [p for p in loaded.model.parameters() if p.requires_grad]
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), ROWS[: len(logits), 1:].flatten()
    )
    return [logits.detach(), *torch.autograd.grad(loss, trainable)]


def assert_fused_equals_unfused(loaded: Loaded, tolerance: float = 1e-5, **inputs: object) -> None:
    fused = run(loaded, **inputs)
    unfuse(loaded.model)
    assert not any(isinstance(module, FUSED) for module in loaded.model.modules())
    plain = run(loaded, **inputs)
    for got, want in zip(fused, plain, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=tolerance * max(1.0, want.abs().max().item()))


@pytest.mark.parametrize("name", PACKING)
@pytest.mark.parametrize("inputs", [{}, PACKED], ids=["batch", "packed"])
def test_outputs_and_gradients_stay_with_dropout(name, inputs):
    assert_fused_equals_unfused(adapted(name), use_cache=False, **inputs)


@pytest.mark.parametrize("name", PACKING)
def test_a_padded_batch_stays(name):
    assert_fused_equals_unfused(adapted(name), attention_mask=PADDED)


@pytest.mark.parametrize(
    "targets", [["q_proj", "v_proj"], ["down_proj"], ["gate_proj", "k_proj"], ["o_proj"]]
)
def test_a_partly_targeted_model_stays(targets):
    assert_fused_equals_unfused(adapted("llama", target_modules=targets))


@pytest.mark.parametrize("name", PACKING)
def test_gradient_checkpointing_stays(name):
    loaded = adapted(name)
    once = run(loaded)
    loaded.model.activation_checkpointing_enable({"use_reentrant": False})
    torch.testing.assert_close(run(loaded), once, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "deepseek_v2", "deepseek_v3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_half_precision_and_autocast_stay(name, dtype):
    loaded = adapted(name, dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "float32"):
        assert_fused_equals_unfused(loaded, tolerance=3e-2)


@pytest.mark.parametrize("name", PACKING)
def test_generation_with_a_cache_stays(name):
    loaded = adapted(name)
    loaded.model.eval()
    settings = {"attention_mask": PADDED, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    fused = loaded.model.generate(ROWS, **settings)
    unfuse(loaded.model)
    assert torch.equal(fused, loaded.model.generate(ROWS, **settings))


@pytest.mark.parametrize("name", PACKING)
def test_the_base_alone_is_what_it_was_before_attach(name):
    before = load_model(f"tiny/{name}", dtype="float32")
    loaded = adapted(name)
    loaded.model.eval()
    with torch.no_grad(), disabled(loaded):
        base = loaded.model(ROWS).logits
    torch.testing.assert_close(base, before.model(ROWS).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PACKING)
def test_what_is_fused(name):
    kinds = [type(module) for module in adapted(name).model.modules()]
    assert FusedNorm in kinds
    assert FusedMLP in kinds
    assert (FusedAttention in kinds) == (name in ("llama", "qwen2"))
    assert (FusedLatentAttention in kinds) == (name in LATENT)


@pytest.mark.parametrize("name", ["deepseek_v32", "deepseek_v4"])
def test_families_that_do_not_pack_keep_their_own_modules(name):
    assert not any(
        isinstance(module, FUSED) for module in adapted(name, target_modules=["attention"]).model.modules()
    )


def test_names_classes_and_other_instances_are_untouched():
    other = load_model("tiny/llama")
    loaded = adapted("llama")
    fused_names = [name for name, _ in loaded.model.named_parameters()]
    unfuse(loaded.model)
    assert fused_names == [name for name, _ in loaded.model.named_parameters()]
    fuse(loaded.model)
    classes = {type(module) for module in other.model.modules()}
    assert {LlamaMLP, LlamaRMSNorm} < classes
    assert classes.isdisjoint(FUSED)
    detach(loaded)
    assert [type(m) for m in loaded.model.modules()] == [type(m) for m in other.model.modules()]
    assert not any("unfused" in vars(module) for module in loaded.model.modules())


def test_a_second_adapter_finds_everything_fused_and_works():
    loaded = adapted("llama", target_modules=["q_proj"], lora_dropout=0.0)
    attach(loaded, AdapterSpec(r=2, target_modules=["dense"]), name="second")
    assert_fused_equals_unfused(loaded)


def test_a_copy_of_an_attached_model_is_its_own_model():
    loaded = adapted("llama")
    twin = copy.deepcopy(loaded.model)
    expected = run(loaded)[0]
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.zero_()
    torch.manual_seed(3)
    assert torch.equal(twin(ROWS, use_cache=False).logits, expected)


def test_an_mlp_with_another_activation_keeps_its_own_forward():
    loaded = load_model("tiny/llama")
    loaded.model.model.layers[0].mlp.act_fn = torch.nn.GELU()
    attach(loaded, AdapterSpec(r=2))
    kinds = [type(layer.mlp) for layer in loaded.model.model.layers]
    assert kinds[0] is LlamaMLP
    assert set(kinds[1:]) == {FusedMLP}


@pytest.mark.parametrize("name", ["llama", "deepseek_v3"])
def test_switching_the_attention_under_an_adapter_is_refused(name):
    loaded = adapted(name)
    loaded.model.set_attn_implementation("eager")
    with pytest.raises(ModelError, match="detach it first"):
        loaded.model(ROWS)


@pytest.mark.parametrize("name", LATENT)
@pytest.mark.parametrize(
    "inputs", [{}, PACKED, {"attention_mask": PADDED}], ids=["batch", "packed", "padded"]
)
def test_a_float64_model_keeps_transformers_norms_and_so_its_rounding(name, inputs):
    loaded = adapted(name, "float64")
    kinds = [type(module) for module in loaded.model.modules()]
    assert FusedNorm not in kinds
    assert FusedMLP in kinds
    assert (FusedLatentAttention in kinds) == (name == "deepseek_v3")  # V2 rotates in float32
    assert_fused_equals_unfused(loaded, tolerance=1e-12, **inputs)


def test_latent_attention_that_rotates_halves_keeps_its_own_forward():
    loaded = load_model("tiny/deepseek_v3")
    loaded.model.config.rope_interleave = False
    attach(loaded, AdapterSpec(r=2))
    assert not any(isinstance(module, FusedLatentAttention) for module in loaded.model.modules())


@pytest.mark.parametrize("name", LATENT)
def test_a_cache_filled_by_fused_latent_attention_is_the_unfused_one(name):
    loaded = adapted(name)
    loaded.model.eval()
    caches = []
    for _ in range(2):
        with torch.no_grad():
            caches.append(loaded.model(ROWS, use_cache=True).past_key_values)
        unfuse(loaded.model)
    for fused, plain in zip(*(cache.layers for cache in caches), strict=True):
        torch.testing.assert_close((fused.keys, fused.values), (plain.keys, plain.values), rtol=0, atol=1e-5)
