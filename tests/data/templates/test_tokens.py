"""Pieces encoded apart are the row encoded whole; weights fall on the right positions."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from seektune.data.templates.tokens import encoder, sample_of
from seektune.errors import DataError
from seektune.types import IGNORE, Sample

TEXTS = ["medicine", "ing\n", "12", "34", "：", "好的。", "  ", "x<｜Assistant｜>", "<think>\n", "\n</think>"]


def flat(ids: list[list[int]]) -> list[int]:
    return [token for piece in ids for token in piece]


def growing(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The slow twin: every prefix of the row encoded whole."""
    found: list[list[int]] = []
    for end in range(1, len(texts) + 1):
        before = flat(found)
        whole = tokenizer.encode("".join(texts[:end]), add_special_tokens=False)
        alone = tokenizer.encode(texts[end - 1], add_special_tokens=False)
        found.append(whole[len(before) :] if whole[: len(before)] == before else alone)
    return found


@given(st.lists(st.lists(st.text(max_size=20) | st.sampled_from(TEXTS), min_size=1, max_size=4), max_size=3))
@settings(deadline=None)
def test_pieces_are_encoded_as_they_stand_in_the_row(tokenizer: Any, rows: list[list[str]]) -> None:
    for row, ids in zip(rows, encoder(tokenizer)(rows), strict=True):
        assert tokenizer.decode(flat(ids)) == tokenizer.decode(flat(growing(tokenizer, row)))
        assert [tokenizer.decode(piece) for piece in ids] == row or "�" in "".join(row)


def test_after_a_control_token_or_a_colon_pieces_are_exactly_the_whole_rows_tokens(tokenizer: Any) -> None:
    rows = [
        ["<｜begin▁of▁sentence｜><｜User｜>12 mmHg？<｜Assistant｜>", " 34。<｜end▁of▁sentence｜>"],
        ["User: medic\n\nAssistant:", " ine", "<｜end▁of▁sentence｜>User: b\n\nAssistant:", " 34"],
    ]
    for row, ids in zip(rows, encoder(tokenizer)(rows), strict=True):
        assert flat(ids) == tokenizer.encode("".join(row), add_special_tokens=False)
        assert ids == growing(tokenizer, row)


def test_a_tokenizer_that_puts_a_blank_before_every_text_sees_the_text_in_front() -> None:
    alphabet = [*"yesno:\n.", "▁", "▁no", "。", "好", "的", "是", ">"]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(alphabet)}, unk_token="."))
    backend.model = models.BPE({word: n for n, word in enumerate(alphabet) if len(word) == 1}, [])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace()
    own = PreTrainedTokenizerFast(tokenizer_object=backend)
    [ids] = encoder(own)([["yes:", "no"]])
    assert flat(ids) == own.encode("yes:no")
    assert own.encode("no") != ids[1]  # alone it gets a blank


def test_padding_left_set_in_the_tokenizer_does_not_pad_the_rows(tokenizer: Any) -> None:
    own = copy.deepcopy(tokenizer)
    own(["a", "a long text"], padding=True, truncation=True, max_length=3)
    [[short], [long]] = encoder(own)([["a"], ["a long text that goes on"]])
    assert short == tokenizer.encode("a", add_special_tokens=False)
    assert long == tokenizer.encode("a long text that goes on", add_special_tokens=False)


def test_a_tokenizer_without_a_fast_backend_will_do() -> None:
    slow = SimpleNamespace(encode=lambda text, add_special_tokens: list(text.encode()))
    assert encoder(slow)([["a", "bc"]]) == [[[97], [98, 99]]]


def test_one_weight_is_a_number_and_several_stand_at_their_targets() -> None:
    assert sample_of("r:1", [[1, 2], [3, 4]], [0, 1.0]) == Sample((1, 2, 3), (IGNORE, 3, 4), "r:1", 1.0)
    assert sample_of("r:1", [[1, 2], [3], [4]], [0.5, 0, 0.5]) == Sample(
        (1, 2, 3), (2, IGNORE, 4), "r:1", 0.5
    )
    mixed = sample_of("r:1", [[1], [2, 3], [4], [5]], [0, 2.0, 0, 1.0])
    assert mixed == Sample((1, 2, 3, 4), (2, 3, IGNORE, 5), "r:1", (2.0, 2.0, 0, 1.0))
    nothing = sample_of("r:1", [[1], [2]], [0, 0])
    assert nothing == Sample((1,), (IGNORE,), "r:1", 1.0)


@pytest.mark.parametrize("ids", [[], [[]], [[1], []]])
def test_a_row_of_one_token_predicts_nothing(ids: list[list[int]]) -> None:
    found = sample_of("r:1", ids, [1.0] * len(ids))
    assert isinstance(found, DataError)
    assert "r:1" in str(found)
