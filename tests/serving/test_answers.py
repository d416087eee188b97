"""Outputs in OpenAI's shapes, as the official client's own types validate them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from seektune.generation.request import Output, TokenLogprob
from seektune.models.load import load_model
from seektune.serving.answers import Reply, usage

H, PART = 42, 230  # of tiny models: a letter, and a byte that is no character
SAID = TokenLogprob(H, -0.5, ((H, -0.5), (PART, float("-inf"))))
DONE = Output(
    id="r", tokens=(H,), text="H", logprobs=(SAID,), finish_reason="stop",
    prompt_tokens=7, completion_tokens=1, cached_tokens=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("tiny/llama").tokenizer


def reply(tokenizer, chat: bool) -> Reply:
    return Reply(id="x", model="m@1", chat=chat, fingerprint="fp_0", tokenizer=tokenizer)


def test_a_chat_and_its_chunks_are_what_the_client_reads(tokenizer):
    whole = ChatCompletion.model_validate_json(
        json.dumps(reply(tokenizer, True).whole([DONE], 1), allow_nan=False)
    )
    assert whole.choices[0].message.content == "H"
    assert whole.choices[0].logprobs.content[0].top_logprobs[1].logprob == -9999.0
    assert whole.model == "m@1"
    chunk = ChatCompletionChunk.model_validate(reply(tokenizer, True).chunk(3, DONE, True, 0))
    assert (chunk.choices[0].index, chunk.choices[0].delta.role, chunk.choices[0].delta.content) == (
        3, "assistant", "H",
    )  # fmt: skip
    last = ChatCompletionChunk.model_validate(reply(tokenizer, True).last_chunk([DONE], 1))
    assert last.usage.total_tokens == 8


def test_a_completion_and_its_chunks_are_what_the_client_reads(tokenizer):
    whole = Completion.model_validate_json(
        json.dumps(reply(tokenizer, False).whole([DONE], 1), allow_nan=False)
    )
    assert whole.choices[0].text == "H"
    assert whole.choices[0].logprobs.top_logprobs[0]["H"] == -0.5
    chunk = Completion.model_validate(reply(tokenizer, False).chunk(1, DONE, False, 9))
    assert chunk.choices[0].logprobs.text_offset == [9]


def test_a_part_of_a_character_is_named_by_its_bytes(tokenizer):
    [said] = reply(tokenizer, True).whole([DONE], 1)["choices"][0]["logprobs"]["content"]
    assert said["bytes"] == [72]
    assert said["top_logprobs"][1] == {"token": r"bytes:\x85", "logprob": -9999.0, "bytes": [0x85]}


def test_parts_of_characters_are_told_apart_and_join_to_the_text(tokenizer):
    ids = tokenizer("a病b", add_special_tokens=False)["input_ids"]
    top = tuple((token, -1.0) for token in ids)
    chosen = tuple(TokenLogprob(token, -1.0, top) for token in ids)
    done = replace(DONE, tokens=tuple(ids), text="a病b", logprobs=chosen)
    said = reply(tokenizer, False).whole([done], 1)["choices"][0]["logprobs"]
    assert said["tokens"] == ["a", r"bytes:\xe7", r"bytes:\x97", r"bytes:\x85", "b"]
    assert [len(top) for top in said["top_logprobs"]] == [5] * 5
    assert said["text_offset"] == [0, 1, 2, 2, 2]
    content = reply(tokenizer, True).whole([done], 1)["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(one["bytes"]) for one in content).decode() == "a病b"


def test_a_prompt_with_several_answers_counts_once():
    found = usage([DONE] * 4, 2)
    assert (found["prompt_tokens"], found["completion_tokens"], found["total_tokens"]) == (14, 4, 18)
    assert found["prompt_tokens_details"]["cached_tokens"] == 8
