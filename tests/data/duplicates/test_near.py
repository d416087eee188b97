"""Candidate pairs: what is found, what the sieves may lose, and what crowds cost."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from seektune.data.duplicates.near import CROWD, Candidates, _possible, candidates
from seektune.data.duplicates.signatures import LETTERS, Signatures, grams

ALPHABETS = {"latin": "abcdefghijklmnopqrstuvwxyz     ", "chinese": "".join(map(chr, range(0x4E00, 0x5400)))}


def signatures_of(folder: Path, texts: list[str]) -> Signatures:
    signatures = Signatures(folder)
    for text in texts:
        signatures.add(text)
    signatures.close()
    return signatures


def within(folder: Path, texts: list[str], similarity: float = 0.87) -> Candidates:
    signatures = signatures_of(folder / "signatures", texts)
    kept = np.ones(len(texts), np.bool_)
    return candidates(signatures, signatures, similarity, kept, kept, folder / "pairs")


def pairs_of(found: Candidates) -> list[tuple[int, int]]:
    return [(one, other) for block in found for one, other in block.tolist()]


def written(generator: random.Random, alphabet: str, length: int) -> str:
    return "".join(generator.choice(alphabet) for _ in range(length))


def edited(generator: random.Random, text: str, alphabet: str, edits: int) -> str:
    characters = list(text)
    for _ in range(min(edits, len(text) - 1)):
        place = generator.randrange(len(characters))
        match generator.randrange(3):
            case 0:
                characters[place] = generator.choice(alphabet)
            case 1:
                characters.insert(place, generator.choice(alphabet))
            case _:
                del characters[place]
    return "".join(characters)


@pytest.mark.parametrize("alphabet", ALPHABETS.values(), ids=ALPHABETS.keys())
@pytest.mark.parametrize("length", [40, 150, 1500])
def test_texts_with_a_tenth_of_their_characters_edited_are_found_and_others_are_not(
    tmp_path: Path, alphabet: str, length: int
) -> None:
    generator = random.Random(length)
    texts = [written(generator, alphabet, length) for _ in range(300)]
    copies = [edited(generator, text, alphabet, length // 10) for text in texts]
    pairs = pairs_of(within(tmp_path, texts + copies))
    assert pairs == sorted(set(pairs))
    found = sum((row, row + 300) in pairs for row in range(300))
    assert found >= 0.97 * 300
    assert len(pairs) - found <= 3


def test_across_two_sets_the_first_number_is_of_the_first(tmp_path: Path) -> None:
    generator = random.Random(0)
    texts = [written(generator, ALPHABETS["latin"], 80) for _ in range(50)]
    left, right = signatures_of(tmp_path / "l", texts), signatures_of(tmp_path / "r", texts[::-1][:20])
    found = candidates(left, right, 0.87, np.ones(50, np.bool_), np.arange(20) != 3, tmp_path / "pairs")
    assert pairs_of(found) == [(row, 49 - row) for row in range(30, 50) if 49 - row != 3]
    assert found.capped == 0


def test_a_thousand_copies_of_one_text_are_linked_without_all_of_their_pairs(tmp_path: Path) -> None:
    generator = random.Random(0)
    text = written(generator, ALPHABETS["latin"], 200)
    others = [written(generator, ALPHABETS["latin"], 200) for _ in range(200)]
    pairs = pairs_of(within(tmp_path, [*others, *(edited(generator, text, "xyz", 4) for _ in range(1000))]))
    assert {other for _, other in pairs} == set(range(201, 1200))
    assert len(pairs) < 1000 * CROWD


def test_texts_with_crowded_fingerprints_only_are_counted(tmp_path: Path) -> None:
    found = within(tmp_path, ["the very same short text"] * 40 + ["another text altogether", ""])
    assert found.capped == 40


def test_nothing_is_found_among_no_texts(tmp_path: Path) -> None:
    assert pairs_of(within(tmp_path, [])) == []
    assert pairs_of(within(tmp_path / "one", ["alone"])) == []


@given(st.data())
def test_the_sieves_never_lose_a_pair_that_is_alike(data: st.DataObject) -> None:
    one = data.draw(st.text(st.sampled_from("ab的一é😀 \n"), min_size=1, max_size=40))
    edits = data.draw(st.integers(0, 6))
    other = edited(random.Random(data.draw(st.integers())), one + "ab", "ab的一é😀 \n", edits)
    similarity = Levenshtein.normalized_similarity(one, other)

    class Held:
        def __init__(self, text: str) -> None:
            self.lengths = np.array([len(text)], np.uint32)
            self.letters = _letters(text)

    if similarity > 0:
        assert _possible(Held(one), Held(other), np.zeros((1, 2), np.int64), similarity).all()  # type: ignore[arg-type]


def _letters(text: str) -> NDArray[np.uint8]:
    return np.bincount(grams([text])[1], minlength=LETTERS).astype(np.uint8)[None]
