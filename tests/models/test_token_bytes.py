from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from seektune.models.load import load_model
from seektune.models.token_bytes import token_bytes


@pytest.fixture(scope="module")
def byte_level() -> Any:
    return load_model("tiny/llama").tokenizer


@pytest.fixture(scope="module")
def byte_fallback() -> Any:
    pieces = {"<unk>": 0, "▁I": 1, "病": 2} | {f"<0x{byte:02X}>": byte + 3 for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(pieces, [], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize("text", ["Hi", "病人", "🙂", "naïve — 5 µg"])
def test_the_bytes_of_the_tokens_of_a_text_are_the_texts(
    byte_level: Any, byte_fallback: Any, text: str
) -> None:
    ids = byte_level(text, add_special_tokens=False)["input_ids"]
    assert b"".join(token_bytes(byte_level, token) or b"?" for token in ids) == text.encode()
    assert b"".join(token_bytes(byte_fallback, byte + 3) or b"?" for byte in text.encode()) == text.encode()


def test_a_token_of_whole_characters_is_its_text(byte_fallback: Any) -> None:
    assert token_bytes(byte_fallback, 2) == "病".encode()


def test_a_vocabulary_that_does_not_say_leaves_it_open(byte_level: Any) -> None:
    class Odd:
        def decode(self, *_: Any, **__: Any) -> str:
            return "\ufffd"

        def convert_ids_to_tokens(self, _: int) -> str:
            return "\ufffd"

    odd: Any = Odd()
    assert token_bytes(odd, 1) is None
