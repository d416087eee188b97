from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from seektune.errors import ModelError
from seektune.models.backends import NAME, install
from seektune.models.families import FAMILIES, family_of
from seektune.models.tiny import TINY, tiny_model

PACKING = [name for name in TINY if FAMILIES[name.removesuffix("_lite")].packs]
MOE = [name for name in TINY if FAMILIES[name.removesuffix("_lite")].experts]
TOLERANCE = 1e-6  # float64, but routers compute in float32 and their rounding depends on the row's length
LENGTHS = (9, 1, 15, 7)
IDS = torch.randint(3, 250, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))


def ours(name: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    model, _ = tiny_model(name, dtype=dtype)
    install(model, family_of(model.config.model_type))
    return model


def stock(name: str, dtype: torch.dtype = torch.float64) -> PreTrainedModel:
    model, _ = tiny_model(name, dtype=dtype)
    if name in MOE:
        model.set_experts_implementation("eager")
    return model


def boundaries(lengths: tuple[int, ...] = LENGTHS) -> dict[str, Any]:
    cu_seqlens = torch.tensor([0, *torch.tensor(lengths).cumsum(0)], dtype=torch.int32)
    return {
        "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
        "cu_seq_lens_q": cu_seqlens,
        "cu_seq_lens_k": cu_seqlens,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
        "use_cache": False,
    }


def alone(model: PreTrainedModel) -> Tensor:
    return torch.cat([model(input_ids=part).logits for part in IDS.split(LENGTHS, dim=1)], dim=1)


@pytest.mark.parametrize("name", PACKING)
def test_packed_rows_equal_each_row_alone_in_stock_transformers(name: str) -> None:
    with torch.no_grad():
        packed = ours(name)(input_ids=IDS, **boundaries()).logits
        torch.testing.assert_close(packed, alone(stock(name)), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", PACKING)
def test_gradients_of_packed_rows_under_checkpointing_equal_those_of_rows_alone(name: str) -> None:
    packed, separate = ours(name), stock(name)
    packed.activation_checkpointing_enable()
    packed.train()
    direction = torch.randn(1, sum(LENGTHS), packed.get_output_embeddings().out_features, dtype=torch.float64)
    (packed(input_ids=IDS, **boundaries()).logits * direction).sum().backward()
    (alone(separate) * direction).sum().backward()
    expected = dict(separate.named_parameters())
    for key, parameter in packed.named_parameters():
        gradient = expected[key].grad
        if gradient is not None:
            assert (parameter.grad - gradient).norm() <= TOLERANCE * gradient.norm(), key


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", TINY)
def test_padded_batches_equal_stock_attention(name: str, side: str) -> None:
    ids, mask = IDS[:, :24].reshape(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0, slice(0, 4) if side == "left" else slice(8, 12)] = 0
    native, eager = stock(name, torch.float32), stock(name, torch.float32)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        logits, expected, plain = (
            model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
            for model in (ours(name, torch.float32), native, eager)
        )
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", TINY)
def test_generation_with_a_cache_equals_stock(name: str, padded: bool) -> None:
    ids, mask = IDS[:, :24].reshape(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0, :4] = 0 if padded else 1
    tokens = [
        model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=6, min_new_tokens=6, do_sample=False
        )
        for model in (ours(name), stock(name))
    ]
    assert torch.equal(*tokens)


@pytest.mark.parametrize("name", PACKING)
def test_a_prompt_in_two_pieces_through_the_cache_equals_the_whole(name: str) -> None:
    model = ours(name)
    with torch.no_grad():
        first = model(input_ids=IDS[:, :20], use_cache=True)
        rest = model(input_ids=IDS[:, 20:], past_key_values=first.past_key_values, use_cache=True)
        whole = stock(name)(input_ids=IDS).logits
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], 1), whole, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", PACKING)
def test_restarting_positions_without_boundaries_are_refused(name: str) -> None:
    positions = boundaries()["position_ids"]
    with pytest.raises(ModelError, match="pass cu_seq_lens_q"):
        ours(name)(input_ids=IDS, position_ids=positions, use_cache=False)


def test_packed_rows_refuse_a_filled_cache() -> None:
    model = ours("llama")
    cache = model(input_ids=IDS[:, :4], use_cache=True).past_key_values
    with pytest.raises(ModelError, match="use_cache=False"):
        model(input_ids=IDS, past_key_values=cache, **(boundaries() | {"use_cache": True}))


def sliding() -> tuple[PreTrainedModel, PreTrainedModel]:
    model, _ = tiny_model("qwen2")
    config = copy.deepcopy(model.config)
    config.layer_types, config.sliding_window = ["sliding_attention"] * 2, 4
    pair = type(model)(config).eval(), type(model)(copy.deepcopy(config)).eval()
    for other in pair:
        other.load_state_dict(model.state_dict())
    install(pair[0], family_of("qwen2"))
    return pair


def test_a_sliding_window_is_honoured_on_whole_rows() -> None:
    model, reference = sliding()
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS).logits, reference(input_ids=IDS).logits)


def test_a_sliding_window_refuses_packed_rows() -> None:
    with pytest.raises(ModelError, match="sliding window"):
        sliding()[0](input_ids=IDS, **boundaries())


@pytest.mark.parametrize("name", MOE)
@pytest.mark.parametrize("tokens", [1, 5, 64])
def test_experts_without_an_adapter_compute_the_stock_output(name: str, tokens: int) -> None:
    model = ours(name, torch.float32)
    experts = next(module for key, module in model.named_modules() if key.endswith("mlp.experts"))
    hidden = 20 * torch.randn(tokens, 64)  # large enough for V4 to clamp
    index = torch.rand(tokens, 8).argsort(-1)[:, :2]
    weights = torch.rand(tokens, 2)
    out = experts(hidden, index, weights)
    assert torch.equal(out, ALL_EXPERTS_FUNCTIONS["grouped_mm"](experts, hidden, index, weights))
    torch.testing.assert_close(out, type(experts).forward.__wrapped__(experts, hidden, index, weights))


class Doubling(nn.Module):
    """An adapter that returns twice the hidden states."""

    at_work = True

    def forward(self, experts: nn.Module, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        return 2 * hidden


def test_an_adapter_at_work_takes_over_and_an_idle_one_falls_through() -> None:
    model = ours("deepseek_v3")
    experts = model.get_submodule("model.layers.1.mlp.experts")
    arguments = torch.randn(3, 64, dtype=torch.float64), torch.tensor([[0, 1]] * 3), torch.ones(3, 2).double()
    base = experts(*arguments)
    experts.adapter = Doubling()
    assert torch.equal(experts(*arguments), 2 * arguments[0])
    experts.adapter.at_work = False
    assert torch.equal(experts(*arguments), base)


@pytest.mark.parametrize("name", TINY)
def test_our_attention_is_selected_only_where_rows_pack_and_never_on_vision(name: str) -> None:
    model, native = ours(name), stock(name)
    text, native_text = model.config.get_text_config(), native.config.get_text_config()
    expected = NAME if name in PACKING else native_text._attn_implementation
    assert text._attn_implementation == expected
    if "vl" in name:
        vision = model.config.vision_config
        assert vision._attn_implementation == native.config.vision_config._attn_implementation != NAME


def test_another_instance_keeps_its_own_attention() -> None:
    ours("llama")
    assert stock("llama").config._attn_implementation == "sdpa"
