"""Signatures of texts in files."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.duplicates.signatures import BANDS, GRAM, LETTERS, SAMPLE, Signatures, grams, text_hash


def signatures_of(folder: Path, texts: list[str], near: bool = True) -> Signatures:
    signatures = Signatures(folder, near=near)
    for text in texts:
        signatures.add(text)
    signatures.close()
    return signatures


def fingerprints(signatures: Signatures, row: int) -> set[int]:
    bands = [signatures.band(index) for index in range(BANDS)]
    return {int(key) for band in bands for key in band["key"][band["row"] == row]}


@given(st.lists(st.text(st.characters(exclude_characters="\0"), max_size=30), min_size=1, max_size=5))
def test_every_character_has_a_gram_and_a_class_and_texts_do_not_run_into_each_other(
    texts: list[str],
) -> None:
    hashes, letters = grams(texts)
    alone = [grams([text]) for text in texts]
    assert len(hashes) == len(letters) == sum(map(len, texts))
    assert np.array_equal(hashes, np.concatenate([one for one, _ in alone]))
    assert np.array_equal(letters, np.concatenate([one for _, one in alone]))


def test_equal_grams_have_equal_hashes_wherever_they_stand() -> None:
    hashes, _ = grams(["abcdefghijklm", "xxabcdefghijyy", "高血压的治疗原则", "老年高血压的治疗"])
    assert hashes[0] == hashes[13 + 2]
    assert len(set(hashes.tolist())) == len(hashes) - 1 - 3  # 高血压+的, 血压的+治, 压的治+疗: ten bytes each


def test_a_short_text_keeps_all_of_its_grams_and_a_long_one_a_sample_that_its_copies_share(
    tmp_path: Path,
) -> None:
    generator = random.Random(0)
    long = "".join(generator.choice("abcdefghij klmnop") for _ in range(2000))
    edited = long[:1000] + "x" + long[1001:]
    signatures = signatures_of(tmp_path / "s", ["short text here", long, edited])
    assert len(fingerprints(signatures, 0)) == len("short text here")
    one, other = fingerprints(signatures, 1), fingerprints(signatures, 2)
    assert SAMPLE / 2 < len(one) < SAMPLE * 2
    assert len(one & other) >= len(one) - GRAM / 2


def test_lengths_letters_and_the_smallest_fingerprint_are_those_of_the_texts(tmp_path: Path) -> None:
    texts = ["", "aab", "高血压", "a" * 300, "word " * 40]
    signatures = signatures_of(tmp_path / "s", texts)
    assert signatures.lengths.tolist() == [len(text) for text in texts]
    assert signatures.letters.sum(axis=1).tolist() == [0, 3, 3, 255, 200]
    assert sorted(signatures.letters[1].tolist())[-2:] == [1, 2]
    assert signatures.letters.shape == (5, LETTERS)
    for row in (1, 2, 4):
        assert int(signatures.smallest[row]) == min(fingerprints(signatures, row))


def test_many_blocks_are_one_set_of_texts(tmp_path: Path) -> None:
    texts = [f"question number {i} of {i % 7}" for i in range(20_000)]
    signatures = signatures_of(tmp_path / "s", texts)
    assert signatures.rows == 20_000
    assert signatures.hashes.tolist() == [text_hash(text) for text in texts]
    rows = np.concatenate([signatures.band(index)["row"] for index in range(BANDS)])
    assert np.array_equal(np.unique(rows), np.arange(20_000))


def test_only_hashes_are_kept_when_near_is_off_and_an_old_folder_is_emptied(tmp_path: Path) -> None:
    signatures_of(tmp_path / "s", ["one", "two"])
    signatures = signatures_of(tmp_path / "s", ["three"], near=False)
    assert signatures.hashes.tolist() == [text_hash("three")]
    assert [file.name for file in (tmp_path / "s").iterdir()] == ["hash"]


def test_an_empty_text_has_the_hash_0_and_line_breaks_do_not_count() -> None:
    assert text_hash("") == 0
    assert text_hash("question\na one\nb two") == text_hash("question\na two\nb one") != 0


def test_boilerplate_is_what_many_texts_share(tmp_path: Path) -> None:
    instruction, chinese = "answer with one word ", "请用一个词回答以下的问题 "
    texts = [f"{instruction}{i * 7919} q" for i in range(500)] + [
        f"{chinese}{i * 7919} q" for i in range(500)
    ]
    signatures = signatures_of(tmp_path / "s", texts)
    common = signatures.common_in(instruction + "zebra crossings", 0.01)
    assert common.tolist() == [True] * len(instruction) + [False] * len("zebra crossings")
    common = signatures.common_in(chinese + "斑马线的作用", 0.01)
    assert common[: len(chinese)].all()
    assert not common[len(chinese) :].any()
    assert not signatures.common_in("nothing of this is shared", 0.01).any()
