from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedModel

from seektune.errors import ModelError
from seektune.models.tiny import TINY, byte_tokenizer, tiny_model

TOKENIZER = byte_tokenizer("{{ messages }}")
IDS = torch.arange(3, 35)[None]


def picture(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """A random image and its row of 16 image tokens between text."""
    image = torch.full((1, 16), model.config.image_token_id)
    inputs = {
        "input_ids": torch.cat([IDS[:, :8], image, IDS[:, 8:]], dim=1),
        "pixel_values": torch.randn(1, 3, 32, 32),
    }
    if hasattr(model.config, "high_res_vision_config"):
        inputs["high_res_pixel_values"] = torch.randn(1, 3, 64, 64)
    return inputs


@pytest.mark.parametrize("name", TINY)
def test_every_generation_runs_forward_and_backward(name: str) -> None:
    model, _ = tiny_model(name)
    inputs = picture(model) if "vl" in name else {"input_ids": IDS}
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    without = {parameter for parameter, value in model.named_parameters() if value.grad is None}
    ungraded = ("indexer", "shared_image_embedding")  # both by design of the model
    assert [parameter for parameter in without if not any(part in parameter for part in ungraded)] == []


def test_weights_depend_on_name_and_seed_only() -> None:
    torch.manual_seed(1)
    first = tiny_model("deepseek_v3")[0].state_dict()
    torch.manual_seed(2)
    second = tiny_model("deepseek_v3")[0].state_dict()
    other = tiny_model("deepseek_v3", seed=1)[0].state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_the_global_random_state_is_left_alone() -> None:
    state = torch.get_rng_state()
    tiny_model("deepseek_v4", dtype=torch.bfloat16)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "name", [name for name in TINY if name.startswith("deepseek_v") and "vl" not in name]
)
def test_tokens_spread_over_the_experts(name: str) -> None:
    model, _ = tiny_model(name)
    chosen: dict[str, set[int]] = {}
    for module_name, module in model.named_modules():
        if module_name.endswith("mlp.experts"):
            module.register_forward_pre_hook(
                lambda _, inputs, layer=module_name: chosen.setdefault(layer, set()).update(
                    inputs[1].flatten().tolist()
                )
            )
    with torch.no_grad():
        model(input_ids=torch.arange(3, 99)[None])
    assert chosen
    assert all(len(experts) == model.config.n_routed_experts for experts in chosen.values())


def test_v4_has_each_attention_type_and_both_routings() -> None:
    config = tiny_model("deepseek_v4")[0].config
    assert len(set(config.layer_types)) == 3
    assert set(config.mlp_layer_types) == {"hash_moe", "moe"}


def test_v4_routes_a_token_to_distinct_experts_by_its_hash() -> None:
    table = tiny_model("deepseek_v4")[0].model.layers[0].mlp.gate.tid2eid
    assert bool((table[:, 0] != table[:, 1]).all())


@given(st.text())
def test_the_byte_tokenizer_loses_nothing(text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    assert TOKENIZER.decode(TOKENIZER(text).input_ids) == text


def test_a_token_is_a_byte_or_a_marker() -> None:
    assert len(TOKENIZER("aé中").input_ids) == 6
    assert len(TOKENIZER("<｜User｜><｜Assistant｜><think></think><image_placeholder>").input_ids) == 5
    assert TOKENIZER("<｜begin▁of▁sentence｜><｜end▁of▁sentence｜><｜▁pad▁｜>").input_ids == [0, 1, 2]


def test_no_bos_is_added_and_chat_markers_survive_skip_special_tokens() -> None:
    ids = TOKENIZER("<｜User｜>x").input_ids
    assert TOKENIZER.bos_token_id not in ids
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "<｜User｜>x"


@pytest.mark.parametrize("name", TINY)
def test_every_token_has_an_embedding(name: str) -> None:
    model, tokenizer = tiny_model(name)
    assert model.get_input_embeddings().num_embeddings == len(tokenizer)


def test_the_tokenizer_saves_and_reloads(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<｜User｜> héllo <think>\n中文"
    assert reloaded(text).input_ids == TOKENIZER(text).input_ids
    assert reloaded.chat_template == TOKENIZER.chat_template


def test_a_misspelt_name_gets_the_near_miss() -> None:
    with pytest.raises(ModelError, match=r"no tiny/deepsek_v3; did you mean tiny/deepseek_v3\?"):
        tiny_model("deepsek_v3")
