"""Bodies as sampling and prompts; what is passed over is listed, the rest is used or refused."""

from __future__ import annotations

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming as ChatParams
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as TextParams

from seektune.generation.request import Sampling
from seektune.serving.body import read
from seektune.serving.protocol import IGNORED, ChatBody, TextBody, choices
from seektune.serving.refusal import Refusal
from seektune.types import Message

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def test_defaults_are_openais():
    body = read(ChatBody, CHAT)
    assert body.asked(77) == Sampling(max_tokens=77, temperature=1.0)
    assert read(TextBody, {"model": "m", "prompt": "x"}).asked() == Sampling(max_tokens=16, temperature=1.0)


def test_every_field_of_sampling_is_passed_on():
    given = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "presence_penalty": 1,
        "frequency_penalty": -1, "repetition_penalty": 1.5, "seed": 3, "stop": ["a", "b"], "ignore_eos": True,
        "max_completion_tokens": 9, "logprobs": True, "top_logprobs": 4,
    }  # fmt: skip
    assert read(ChatBody, CHAT | given).asked(1) == Sampling(
        max_tokens=9, temperature=0.5, top_k=7, top_p=0.9, min_p=0.1, presence_penalty=1,
        frequency_penalty=-1, repetition_penalty=1.5, seed=3, stop=("a", "b"), logprobs=4, ignore_eos=True,
    )  # fmt: skip


@pytest.mark.parametrize(("body", "params"), [(ChatBody, ChatParams), (TextBody, TextParams)])
def test_every_field_the_client_knows_is_used_refused_or_listed_as_passed_over(body, params):
    known = {*body.model_fields, *body.neutral, *IGNORED}
    assert set(params.__annotations__) | {"stream", "stream_options"} <= known


@pytest.mark.parametrize("key", sorted(IGNORED))
def test_what_is_passed_over_changes_nothing(key: str):
    assert read(ChatBody, CHAT | {key: "anything"}) == read(ChatBody, CHAT)


def test_a_conversation_takes_parts_and_developers():
    turns = [
        {"role": "developer", "content": "Be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "c", "refusal": None, "tool_calls": []},
    ]
    body = read(ChatBody, CHAT | {"messages": turns})
    assert body.conversation == [
        Message("system", "Be brief"),
        Message("user", "ab"),
        Message("assistant", "c"),
    ]


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2]], [[1], [2]]), ([], [])],
)
def test_a_prompt_is_one_or_many(prompt, prompts):
    assert read(TextBody, {"model": "m", "prompt": prompt}).prompts == prompts


@pytest.mark.parametrize("prompt", [3, [1, "a"], [["a"]], [True], [[1.5]], {"a": 1}, [None], [[[1]]]])
def test_a_prompt_of_another_kind_is_refused(prompt):
    with pytest.raises(Refusal) as refused:
        read(TextBody, {"model": "m", "prompt": prompt})
    assert refused.value.param.startswith("prompt")


def test_an_unknown_field_is_named_with_the_near_miss_and_never_at_length():
    with pytest.raises(Refusal, match="temprature is unknown; did you mean temperature") as refused:
        read(ChatBody, CHAT | {"temprature": 1})
    assert (refused.value.param, refused.value.code) == ("temprature", "unknown_field")
    with pytest.raises(Refusal) as refused:
        read(ChatBody, CHAT | {"x" * 100_000: 1})
    assert len(str(refused.value)) < 200


def test_choices_with_a_seed_have_neighbouring_ones():
    assert [one.seed for one in choices(Sampling(seed=5, temperature=1), 3)] == [5, 6, 7]
    assert [one.seed for one in choices(Sampling(temperature=1), 2)] == [None, None]
    assert choices(Sampling(seed=2**64 - 1), 1)[0].seed == 2**64 - 1
