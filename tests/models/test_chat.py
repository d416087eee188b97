"""A chat is the tokenizer and family that the whole model would bring, without its weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from seektune.data.templates.render import prompt_ids
from seektune.errors import ModelError
from seektune.models.chat import load_chat
from seektune.models.load import load_model
from seektune.models.tiny import TINY
from seektune.types import Message


@pytest.mark.parametrize("name", TINY)
def test_a_chat_renders_as_the_whole_model_does(name: str) -> None:
    asked = [Message("user", "为什么？")]
    chat, loaded = load_chat(f"tiny/{name}"), load_model(f"tiny/{name}")
    assert prompt_ids(chat, asked) == prompt_ids(loaded, asked)
    assert chat.family == loaded.family


def test_a_folder_needs_no_weights_and_may_have_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    chat = load_chat(tmp_path)
    assert chat.tokenizer is None
    assert chat.template == chat.family.template


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="the tokenizer of"):
        load_chat(tmp_path)


def test_a_misspelt_tiny_model_names_the_near_one() -> None:
    with pytest.raises(ModelError, match="did you mean tiny/deepseek_v3"):
        load_chat("tiny/deepsek_v3")
