"""The DeepSeek-V3 twin of a Llama computes what the Llama computes."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from seektune.quickstart import assets
from seektune.quickstart.llama_to_deepseek import llama_to_deepseek


@pytest.fixture(scope="module")
def llama():
    """Random, with grouped-query attention and norms that are not all one."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=96,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=16,
        tie_word_embeddings=True,
        max_position_embeddings=256,
        initializer_range=0.1,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits


def some_ids():
    return torch.randint(0, 128, (2, 48), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dense_layers", [0, 2, 4])
def test_the_twin_without_noise_is_exact(llama, dense_layers):
    expected = logits(llama, some_ids())
    twin = llama_to_deepseek(llama, dense_layers=dense_layers)
    assert expected.abs().max() > 1
    assert (logits(twin, some_ids()) - expected).abs().max() <= 1e-4


def test_the_twin_is_exact_in_float64_up_to_the_headroom_of_its_constant_channels(llama):
    double = LlamaForCausalLM(llama.config).double().eval()
    double.load_state_dict(llama.state_dict())
    expected = logits(double, some_ids())
    twin = llama_to_deepseek(double, dense_layers=2)
    twin.set_experts_implementation("eager")  # grouped products take no float64
    assert (logits(twin, some_ids()) - expected).abs().max() <= 1e-4


def test_storing_the_twin_in_bfloat16_loses_nothing_the_llama_had(llama, tmp_path):
    rounded = LlamaForCausalLM(llama.config).eval()
    rounded.load_state_dict({name: t.bfloat16().float() for name, t in llama.state_dict().items()})
    llama_to_deepseek(rounded, dense_layers=2).to(torch.bfloat16).save_pretrained(tmp_path)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert (logits(reloaded, some_ids()) - logits(rounded, some_ids())).abs().max() <= 1e-4


def test_noise_makes_experts_differ_and_is_the_same_for_the_same_seed(llama):
    first, again, other = (
        llama_to_deepseek(llama, dense_layers=3, noise=0.02, seed=seed).state_dict() for seed in (0, 0, 1)
    )
    name = "model.layers.3.mlp.experts.gate_up_proj"
    assert torch.equal(first[name], again[name])
    assert not torch.equal(first[name], other[name])
    assert (first[name][0] - first[name][1]).std() == pytest.approx(
        0.02 * 2**0.5 * first[name].std().item(), rel=0.1
    )


def test_the_twin_generates_with_its_cache_what_the_llama_generates(llama):
    prompt = some_ids()[:1, :8]
    twin = llama_to_deepseek(llama, dense_layers=2)
    ask = {
        "max_new_tokens": 8,
        "do_sample": False,
        "pad_token_id": 0,
        "attention_mask": prompt.new_ones(1, 8),
    }
    assert torch.equal(twin.generate(prompt, **ask), llama.generate(prompt, **ask))


@pytest.mark.slow
def test_the_real_twin_is_exact():
    folder = assets.base_folder("dense")
    dense = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = "A boy has a smooth swelling near the inguinal ring that moves with the testicle. Diagnosis?"
    ids = AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")["input_ids"]
    twin = llama_to_deepseek(dense, dense_layers=20)
    assert (logits(twin, ids) - logits(dense, ids)).abs().max() <= 1e-4
