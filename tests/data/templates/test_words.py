"""Words that are remembered are the tokenizer's own, for every text and for tokenizers of several kinds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from seektune.data.templates import words
from seektune.data.templates.words import word_encoder

DATA = Path(__file__).parents[3].parent / "shared" / "data"
PIECES = [
    "a",
    "I'm",
    "12",
    "3.5",
    "mg/dL",
    "°C",
    " ",
    "  ",
    "\n",
    "\t",
    "\u3000",
    "\xa0",
    "，",
    "胃",
    "é",
    "<｜User｜>",
]
texts = st.text(max_size=30) | st.lists(st.sampled_from(PIECES), max_size=20).map("".join)
spaced = st.lists(st.text(max_size=6) | st.sampled_from(PIECES), max_size=20).map(" ".join)


def remembered(made: words.Words | None, several: list[str]) -> list[list[int]]:
    assert made is not None
    return [ids.tolist() for ids in made(several)]


def straight(backend: Any, several: list[str]) -> list[list[int]]:
    """The slow twin."""
    return [encoding.ids for encoding in backend.encode_batch(several, add_special_tokens=False)]


def byte_level(pattern: str | None = None) -> Tokenizer:
    """GPT-2's splitting or another, every byte a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({sign: n for n, sign in enumerate(alphabet)}, []))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    split = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    made.pre_tokenizer = pre_tokenizers.Sequence([*split, level])
    return made


@pytest.fixture(scope="module")
def remembering(tokenizer: Any) -> words.Words:
    made = word_encoder(tokenizer.backend_tokenizer)
    assert made is not None
    return made


@settings(deadline=None, max_examples=200)
@given(st.lists(texts | spaced, max_size=5))
def test_any_text_has_the_tokenizers_own_tokens(
    tokenizer: Any, remembering: words.Words, several: list[str]
) -> None:
    assert remembered(remembering, several) == straight(tokenizer.backend_tokenizer, several)


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


@pytest.mark.skipif(not DATA.exists(), reason="needs ../shared/data")
@pytest.mark.parametrize(
    "name", ["medqa/dev_5opt.jsonl", "cmexam/practice_train.jsonl", "formats/lf_v1_sft_demo.jsonl"]
)
def test_real_records_have_the_tokenizers_own_tokens(
    tokenizer: Any, remembering: words.Words, name: str
) -> None:
    lines = (DATA / name).read_text(encoding="utf-8").split("\n")[:300]
    several = [text for line in lines if line for text in strings(json.loads(line))]
    assert remembered(remembering, several) == straight(tokenizer.backend_tokenizer, several)


def test_memory_is_bounded_and_a_full_one_starts_anew(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "WORDS", 3)
    made = word_encoder(tokenizer.backend_tokenizer)
    for several in (["one two three four five six"], ["five six seven"], ["a " + "long" * 9 + " b"]):
        assert remembered(made, several) == straight(tokenizer.backend_tokenizer, several)


def test_words_that_hold_the_control_token_between_them_are_asked_for_alone(tokenizer: Any) -> None:
    made = word_encoder(tokenizer.backend_tokenizer)
    last = tokenizer.convert_ids_to_tokens(max(tokenizer.added_tokens_decoder))
    several = [f"one two{last} three", f"{last} {last} four< five", f"{last}"]
    assert remembered(made, several) == straight(tokenizer.backend_tokenizer, several)


def test_the_usual_splitting_rules_are_sure() -> None:
    letters = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    llama = letters + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    for backend in (byte_level(), byte_level(llama)):
        made = word_encoder(backend)
        several = ["it's 12 mg,  no \n more (a b) .", "x", ""]
        assert remembered(made, several) == straight(backend, several)


def test_tokenizers_that_look_across_a_space_are_left_alone() -> None:
    assert word_encoder(byte_level(r"[a-z]+ [a-z]+|.")) is None
    for token in ("a b", AddedToken("<x>", lstrip=True), AddedToken("<x>", single_word=True)):
        other = byte_level()
        other.add_tokens([token])
        assert word_encoder(other) is None
    other = byte_level()
    other.pre_tokenizer = None
    assert word_encoder(other) is None
    other = byte_level()
    other.normalizer = normalizers.Replace(" ", "▁")
    assert word_encoder(other) is None
    assert word_encoder(Tokenizer(models.BPE({"a": 0}, [], dropout=0.1))) is None
