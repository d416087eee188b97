"""Turns, who answers them, and what the engine need not compute again."""

from __future__ import annotations

from pathlib import Path

import pytest

from seektune.errors import ConfigError, SeektuneError
from seektune.generation.generate import generate
from seektune.generation.request import Sampling
from seektune.models.load import load_model
from seektune.recipes.adapted import open_adapted
from seektune.recipes.conversation import Conversation
from seektune.types import Message

BASE = "tiny/deepseek_v3"
BRIEF = Sampling(max_tokens=12)


def said(chat: Conversation, question: str) -> str:
    return "".join(chat.ask(question))


def test_an_answer_is_that_of_generate_for_all_turns_so_far(far: Path) -> None:
    chat = Conversation(open_adapted(BASE, [far]), BRIEF, "Be brief.", "Case: ")
    first, second = said(chat, "the eye hurts"), said(chat, "the skin hurts")
    turns = [Message("system", "Be brief."), Message("user", "Case: the eye hurts")]
    loaded = open_adapted(BASE, [far])
    assert first == generate(loaded, turns, max_new_tokens=12).text
    turns += [Message("assistant", first), Message("user", "Case: the skin hurts")]
    assert second == generate(loaded, turns, max_new_tokens=12).text
    assert [turn.content for turn in chat.turns][1::2] == [first, second]


def test_a_following_turn_computes_only_what_is_new() -> None:
    chat = Conversation(load_model("tiny/llama"), BRIEF)
    said(chat, "a question of some length " * 8)
    before = chat.engine.stats
    assert before.cached_tokens == 0
    said(chat, "and?")
    after = chat.engine.stats
    new = after.prompt_tokens - before.prompt_tokens - after.cached_tokens
    assert before.prompt_tokens - 16 <= after.cached_tokens  # but for a page that was not full
    assert new < before.prompt_tokens // 2


def test_adapters_are_switched_within_a_conversation(far: Path) -> None:
    chat = Conversation(open_adapted(BASE, [far]), BRIEF)
    tuned = said(chat, "the eye hurts")
    chat.turns.clear()
    chat.switch("base")
    assert said(chat, "the eye hurts") != tuned
    chat.turns.clear()
    chat.switch("far")
    assert said(chat, "the eye hurts") == tuned
    with pytest.raises(ConfigError, match="there is no adapter 'none'; there is far, base"):
        chat.switch("none")
    assert chat.answering == "far"


def test_a_comparison_puts_one_question_to_all_and_is_forgotten(far: Path) -> None:
    chat = Conversation(open_adapted(BASE, [far]), BRIEF)
    with pytest.raises(ConfigError, match="nothing was asked yet"):
        next(chat.compare())
    tuned = said(chat, "the eye hurts")
    turns = list(chat.turns)
    *_, again = chat.compare()
    *_, asked = Conversation(chat.loaded, BRIEF).compare("the eye hurts")
    assert again == asked
    assert again["far"] == tuned
    assert list(again) == ["base", "far"]
    assert again["base"] != tuned
    assert chat.turns == turns


def test_a_comparison_needs_an_adapter() -> None:
    with pytest.raises(ConfigError, match="no adapter to compare"):
        next(Conversation(load_model("tiny/llama"), BRIEF).compare("Hello"))


def test_an_answer_that_is_stopped_stays_as_far_as_it_came_and_leaves_the_engine_free() -> None:
    chat = Conversation(load_model("tiny/llama"), Sampling(max_tokens=100, ignore_eos=True))
    pieces = chat.ask("Hello")
    heard = next(pieces)
    while not heard:
        heard += next(pieces)
    pieces.close()
    assert [turn.content for turn in chat.turns] == ["Hello", heard]
    assert not chat.engine.has_work
    assert said(chat, "and?")


def test_a_conversation_that_outgrew_the_context_says_so_and_forgets_the_question() -> None:
    chat = Conversation(load_model("tiny/llama"), BRIEF)
    with pytest.raises(SeektuneError, match="the model's context is"):
        said(chat, "long " * 2000)
    assert chat.turns == []
    assert said(chat, "short")
