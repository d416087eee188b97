"""Rows of tokens are those of the engine's other faces, and none is longer than the model takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import replace

import pytest

from seektune.data.templates.render import prompt_ids
from seektune.errors import ModelError
from seektune.generation.generate import encode_prompt
from seektune.models.load import Loaded, load_model
from seektune.serving.prompts import Prompts
from seektune.serving.refusal import Refusal
from seektune.types import Message

TURNS = [Message("user", "Hello")]


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load_model("tiny/llama")


@pytest.fixture
def prompts(loaded: Loaded) -> Iterator[Prompts]:
    with closing(Prompts(loaded, 40)) as at:
        yield at


def read(reading: Awaitable[list[int]]) -> list[int]:
    async def run() -> list[int]:
        return await reading

    return asyncio.run(run())


def test_texts_and_conversations_are_encoded_as_everywhere(loaded: Loaded, prompts: Prompts):
    assert read(prompts.text("Hello", "prompt")) == encode_prompt(loaded, "Hello")
    assert read(prompts.conversation(TURNS, "messages")) == prompt_ids(loaded, TURNS)


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        (lambda at: at.text("x" * 39, "prompt"), "^prompt has 40 tokens: with the answer at most 40 are"),
        (lambda at: at.text("x" * 10**6, "prompt"), "^prompt has 1,000,000 characters"),
        (lambda at: at.conversation([Message("user", "x" * 10**6)], "messages"), "^messages has 1,000,000 c"),
    ],
)
def test_a_prompt_that_is_too_long_is_refused_by_its_name(
    prompts: Prompts, ask: Callable[[Prompts], Awaitable[list[int]]], reason: str
):
    with pytest.raises(Refusal, match=reason) as refused:
        read(ask(prompts))
    assert refused.value.code == "context_length_exceeded"


def test_a_row_of_tokens_has_the_same_limit(prompts: Prompts):
    assert prompts.checked([1] * 39, "prompt") == [1] * 39
    with pytest.raises(Refusal, match="40 tokens"):
        prompts.checked([1] * 40, "prompt")


def test_a_prompt_may_be_limited_below_the_context(loaded: Loaded):
    with closing(Prompts(loaded, 40, most=32)) as at:
        assert at.checked([1] * 32, "prompt") == [1] * 32
        with pytest.raises(Refusal, match=r"^prompt has 33 tokens: at most 32 are taken here$"):
            at.checked([1] * 33, "prompt")


def test_a_model_without_a_tokenizer_cannot_be_served(loaded: Loaded):
    with pytest.raises(ModelError, match="has no tokenizer files"):
        Prompts(replace(loaded, tokenizer=None), 40)
