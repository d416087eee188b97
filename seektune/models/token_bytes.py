"""The bytes a token stands for, also where they are only a part of a character."""

from __future__ import annotations

import re
from functools import cache

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode


def token_bytes(tokenizer: PreTrainedTokenizerBase, token: int) -> bytes | None:
    """UTF-8 of a token, in part where it is a part of a character; None where its vocabulary does not say."""
    text = str(tokenizer.decode([token], skip_special_tokens=False))
    if "\ufffd" not in text:
        return text.encode()
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if found := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", piece):  # sentencepiece's byte fallback
        return bytes.fromhex(found[1])
    known = _byte_level()
    return bytes(known[letter] for letter in piece) if known.keys() >= set(piece) else None


@cache
def _byte_level() -> dict[str, int]:
    """GPT-2's letters for bytes, in which byte-level vocabularies are written."""
    return {letter: byte for byte, letter in bytes_to_unicode().items()}
