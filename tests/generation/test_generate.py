from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_runs import far_adapter

from seektune.adapters.attach import activate, active_adapter, attach
from seektune.config.adapter import AdapterSpec
from seektune.data.templates.render import prompt_ids
from seektune.errors import AdapterError, ConfigError, ModelError
from seektune.generation.engine import stop_ids
from seektune.generation.generate import encode_prompt, generate, stream
from seektune.models.load import Loaded, load_model
from seektune.models.tiny import TINY
from seektune.types import Completion, Message

TEXT = "Fever, stiff neck, 39.5 °C"
CHAT = [Message("system", "Be brief."), Message("user", "发烧三天")]


@pytest.fixture(scope="module")
def llama() -> Loaded:
    return load_model("tiny/llama")


@pytest.fixture
def two_adapters() -> Loaded:
    """Adapters `one` and `two` (active), far from zero and from each other."""
    loaded = load_model("tiny/deepseek_v3")
    for index, name in enumerate(("one", "two")):
        attach(loaded, AdapterSpec(r=4, lora_dropout=0.5, target_modules=["attention", "routed"]), name=name)
        generator = torch.Generator().manual_seed(index)
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.data.normal_(std=0.3, generator=generator)
    return loaded


def hf_greedy(loaded: Loaded, ids: list[int], new: int) -> tuple[int, ...]:
    inputs = torch.tensor([ids])
    out = loaded.model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        do_sample=False,
        max_new_tokens=new,
        eos_token_id=sorted(stop_ids(loaded)),
        pad_token_id=2,
    )
    return tuple(out[0, len(ids) :].tolist())


@pytest.mark.parametrize("name", TINY)
def test_greedy_tokens_are_those_of_transformers_own_generate(name: str) -> None:
    loaded = load_model(f"tiny/{name}")
    for prompt in (TEXT, CHAT):
        ours = generate(loaded, prompt, max_new_tokens=20)
        assert ours.tokens == hf_greedy(loaded, encode_prompt(loaded, prompt), 20)


@pytest.mark.parametrize("name", ["llama", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4"])
def test_the_cache_changes_no_token(name: str) -> None:
    loaded = load_model(f"tiny/{name}", dtype="float64")
    ids = encode_prompt(loaded, TEXT)
    expected: list[int] = []
    with torch.no_grad():
        for _ in range(8):
            logits = loaded.model(input_ids=torch.tensor([ids + expected]), use_cache=False).logits
            expected.append(int(logits[0, -1].argmax()))
    assert list(generate(loaded, TEXT, max_new_tokens=8).tokens) == expected


def test_plain_text_gets_bos_once_and_a_conversation_its_template(llama: Loaded) -> None:
    bos = llama.tokenizer.bos_token_id
    assert encode_prompt(llama, "hi") == [bos, *llama.tokenizer("hi", add_special_tokens=False)["input_ids"]]
    assert encode_prompt(llama, llama.tokenizer.bos_token + "hi") == encode_prompt(llama, "hi")
    assert encode_prompt(llama, "") == [bos]
    assert encode_prompt(llama, CHAT) == prompt_ids(llama, CHAT)
    assert encode_prompt(llama, CHAT).count(bos) == 1
    as_mappings = [{"role": turn.role, "content": turn.content} for turn in CHAT]
    assert encode_prompt(llama, as_mappings) == encode_prompt(llama, CHAT)


def test_pieces_of_a_stream_join_to_the_completion(llama: Loaded) -> None:
    for settings in ({}, {"temperature": 1.5, "seed": 3}):
        whole = generate(llama, CHAT, max_new_tokens=40, **settings)
        assert "".join(stream(llama, CHAT, max_new_tokens=40, **settings)) == whole.text


def test_a_stop_token_ends_the_answer_and_is_no_text(llama: Loaded) -> None:
    free = generate(llama, TEXT, max_new_tokens=12)
    assert free.finish_reason == "length"
    assert len(free.tokens) == 12
    llama.model.generation_config.eos_token_id = [1, free.tokens[4]]
    try:
        stopped = generate(llama, TEXT, max_new_tokens=12)
    finally:
        llama.model.generation_config.eos_token_id = 1
    assert stopped.finish_reason == "stop"
    assert stopped.tokens == free.tokens[: free.tokens.index(free.tokens[4]) + 1]
    assert stopped.text == llama.tokenizer.decode(stopped.tokens[:-1])


def test_sampling_depends_on_the_seed_alone(llama: Loaded) -> None:
    def drawn(seed: int) -> tuple[int, ...]:
        return generate(llama, TEXT, max_new_tokens=10, temperature=1.0, seed=seed).tokens

    first = drawn(0)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert drawn(0) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert drawn(1) != first


def test_a_list_of_prompts_is_answered_as_each_prompt_alone(llama: Loaded) -> None:
    assert generate(llama, [TEXT, CHAT], max_new_tokens=6) == [
        generate(llama, TEXT, max_new_tokens=6),
        generate(llama, CHAT, max_new_tokens=6),
    ]
    sampled = generate(llama, [TEXT, TEXT], max_new_tokens=6, temperature=1.0, seed=5)
    assert sampled[1] == generate(llama, TEXT, max_new_tokens=6, temperature=1.0, seed=6)
    assert generate(llama, []) == []


def test_an_adapter_answers_by_name_and_nothing_stays_switched(two_adapters: Loaded) -> None:
    def answer(**adapter: Any) -> Completion:
        return generate(two_adapters, TEXT, max_new_tokens=8, **adapter)

    base, one, two = answer(adapter=None), answer(adapter="one"), answer(adapter="two")
    assert [base.adapter, one.adapter, two.adapter] == [None, "one", "two"]
    assert len({base.tokens, one.tokens, two.tokens}) == 3
    assert answer() == two
    assert active_adapter(two_adapters) == "two"
    assert base.tokens == generate(load_model("tiny/deepseek_v3"), TEXT, max_new_tokens=8).tokens
    activate(two_adapters, "one")
    assert answer() == one
    activate(two_adapters, None)
    assert answer() == base


def test_streams_of_two_adapters_may_run_in_turn(two_adapters: Loaded) -> None:
    streams = [stream(two_adapters, TEXT, max_new_tokens=12, adapter=name) for name in ("one", None, "two")]
    texts = ["", "", ""]
    while any(pieces := [next(one, "") for one in streams]):
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
        assert active_adapter(two_adapters) == "two"
    assert texts == [
        generate(two_adapters, TEXT, max_new_tokens=12, adapter=name).text for name in ("one", None, "two")
    ]


def test_a_model_in_training_answers_without_dropout_and_trains_on(two_adapters: Loaded) -> None:
    calm = generate(two_adapters, TEXT, max_new_tokens=8)
    two_adapters.model.train()
    assert generate(two_adapters, TEXT, max_new_tokens=8) == calm
    assert all(module.training for module in two_adapters.model.modules())


def test_wrong_settings_and_names_are_refused_before_anything_runs(two_adapters: Loaded) -> None:
    with pytest.raises(ConfigError, match="max_new_tokens is 0"):
        generate(two_adapters, TEXT, max_new_tokens=0)
    for temperature in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="temperature"):
            stream(two_adapters, TEXT, temperature=temperature)
    with pytest.raises(AdapterError, match="no adapter 'three'; attached: one, two"):
        stream(two_adapters, TEXT, adapter="three")


def test_the_context_is_never_exceeded(llama: Loaded) -> None:
    context = llama.model.config.max_position_embeddings
    room = generate(llama, "x" * (context - 3), max_new_tokens=9)  # and BOS
    assert len(room.tokens) == 2
    assert room.finish_reason == "length"
    with pytest.raises(ModelError, match=rf"{context + 1} tokens and the model's context is {context}"):
        generate(llama, "x" * context)


def test_what_is_not_finite_is_an_error_and_no_empty_answer() -> None:
    loaded = load_model("tiny/llama")
    loaded.model.model.norm.weight.data[0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        generate(loaded, TEXT)
    with pytest.raises(ModelError, match="not finite"):
        list(stream(loaded, TEXT))


def test_a_stream_keeps_its_adapter_when_another_comes() -> None:
    loaded = load_model("tiny/llama")
    expected = generate(loaded, TEXT, max_new_tokens=12).text
    pieces = stream(loaded, TEXT, max_new_tokens=12, adapter=None)
    said = next(pieces)
    far_adapter(loaded, "late")
    assert said + "".join(pieces) == expected


def test_a_model_without_a_tokenizer_says_so() -> None:
    loaded = load_model("tiny/llama")
    loaded.tokenizer = None
    with pytest.raises(ModelError, match="tiny/llama has no tokenizer files"):
        generate(loaded, TEXT)
