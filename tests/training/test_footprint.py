"""What is said to be kept for the backward, against what autograd keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from seektune.adapters.attach import attach
from seektune.config.adapter import AdapterSpec
from seektune.models.load import Loaded, load_model
from seektune.models.outline import architecture, outline
from seektune.training.footprint import (
    Workload,
    activations,
    adapter_values,
    decoder_layers,
    head,
    terms,
    transient,
)
from seektune.training.step import TrainStep

TOKENS, LENGTH = 64, 32
FAMILIES = ("tiny/llama", "tiny/qwen2", "tiny/deepseek_v2_lite", "tiny/deepseek_v2", "tiny/deepseek_v3")


def kept(loaded: Loaded) -> int:
    """Bytes of all storages that autograd holds after a forward, parameters and buffers left out."""
    model = loaded.model
    own = {tensor.untyped_storage().data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    alive: dict[int, Tensor] = {}  # holding the tensors keeps their addresses from being used again

    def note(tensor: Tensor) -> Tensor:
        alive.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    ids = torch.arange(3, 3 + TOKENS)[None]
    positions = torch.arange(LENGTH).repeat(TOKENS // LENGTH)[None]
    bounds = torch.arange(0, TOKENS + 1, LENGTH, dtype=torch.int32)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss, _, _ = TrainStep(loaded).train()(ids, positions, bounds, ids, torch.ones(1, TOKENS))
    assert loss.requires_grad
    return sum(t.untyped_storage().nbytes() for address, t in alive.items() if address not in own)


def predicted(source: str, spec: AdapterSpec, dtype: torch.dtype) -> int:
    outlined = outline(architecture(source))
    load = Workload(tokens=TOKENS, longest=LENGTH, dtype=dtype, device="cpu")
    return sum(activations(outlined, terms(outlined, spec), load)) + head(outlined, load)[0]


def check(source: str, dtype: torch.dtype = torch.float32, **settings: Any) -> None:
    spec = AdapterSpec(r=4, **settings)
    loaded = attach(load_model(source, dtype=dtype, device="cpu"), spec)
    assert predicted(source, spec, dtype) == pytest.approx(kept(loaded), rel=0.025)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("source", FAMILIES)
def test_a_row_keeps_what_is_said(source: str, dropout: float, dtype: torch.dtype) -> None:
    check(source, dtype, target_modules=["attention"], lora_dropout=dropout)
    check(source, dtype, target_modules=["all-linear"], lora_dropout=dropout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("source", ["tiny/deepseek_v2", "tiny/deepseek_v3"])
def test_routed_experts_keep_what_is_said(source: str, dtype: torch.dtype) -> None:
    check(source, dtype, target_modules=["routed"])
    check(source, dtype, target_modules=["attention", "routed"], lora_dropout=0.1)


@pytest.mark.parametrize(
    ("source", "part"),
    [("tiny/llama", "mlp"), ("tiny/deepseek_v3", "self_attn"), ("tiny/deepseek_v3", "mlp")],
)
def test_layers_below_the_first_adapter_keep_nothing(source: str, part: str) -> None:
    targets = rf".*layers\.1\.{part}\..*"
    check(source, target_modules=targets)
    outlined = outline(architecture(source))
    load = Workload(tokens=TOKENS, longest=LENGTH)
    layers = activations(outlined, terms(outlined, AdapterSpec(target_modules=targets)), load)
    assert layers[0] == 0 < layers[1]


def test_an_expert_left_out_keeps_no_low_rank_rows() -> None:
    outlined = outline(architecture("tiny/deepseek_v3"))
    load = Workload(tokens=TOKENS, longest=LENGTH)
    every = terms(outlined, AdapterSpec(target_modules=["routed"], r=4))
    some = terms(outlined, AdapterSpec(target_modules=["routed"], r=4, experts={1: (0, 1)}))
    difference = activations(outlined, every, load)[1] - activations(outlined, some, load)[1]
    assert difference == TOKENS * 2 * 0.75 * 2 * 4 * 2  # K choices, 6 of 8 experts, two products, r, bytes


@pytest.mark.parametrize("name", ["deepseek_v32", "deepseek_v4", "deepseek_vl", "deepseek_vl_hybrid"])
def test_families_with_their_own_attention_have_an_estimate_that_grows_with_the_row(name: str) -> None:
    outlined = outline(architecture(f"tiny/{name}"))
    added = terms(outlined, AdapterSpec(target_modules=["attention"]))
    short, long = (Workload(tokens=tokens, longest=tokens) for tokens in (64, 128))
    assert sum(activations(outlined, added, long)) >= 2 * sum(activations(outlined, added, short)) > 0
    assert all(transient(layer, added, long) > 0 for layer in decoder_layers(outlined))


def test_logits_stop_growing_at_a_chunk_and_unlearned_tokens_have_none() -> None:
    outlined = outline(architecture("deepseek-ai/DeepSeek-V2-Lite"))
    sizes = [head(outlined, Workload(tokens=tokens, longest=64))[1] for tokens in (16, 2**20, 2**21)]
    assert sizes[0] < sizes[1] == sizes[2] < 100e6
    assert head(outlined, Workload(tokens=64, longest=64, learned=0.0))[1] == 0


def test_a_term_has_the_parameters_of_its_site() -> None:
    outlined = outline(architecture("tiny/deepseek_v3"))
    mlp = decoder_layers(outlined)[1].mlp
    assert adapter_values(mlp.shared_experts.up_proj, None, 4) == 4 * (64 + 32)
    assert adapter_values(mlp.experts, None, 4) == 8 * adapter_values(mlp.experts, (3,), 4)
