"""Duplicates among rows, and training rows that stand in the held-out rows."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from seektune.config.data import DedupConfig
from seektune.data.duplicates.comparison import question_text, text_of
from seektune.data.duplicates.index import Duplicates, Index, Leaks, leaks
from seektune.types import Example, Message, Row

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
real_data = pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data")
Edit = Callable[[str], str]


def asked(question: str, answer: str, images: tuple[str, ...] = ()) -> Example:
    return Example((Message("user", question), Message("assistant", answer)), "a:1", images=images)


def closed(question: str, options: Sequence[str], answer: int) -> Example:
    lettered = tuple(f"{letter}. {text}" for letter, text in zip("ABCDE", options, strict=False))
    content = "\n".join([question, *lettered, "Answer with the letter and the text of the correct option."])
    turns = (Message("user", content), Message("assistant", lettered[answer]))
    return Example(turns, "a:1", lettered, answer)


def duplicates_of(folder: Path, rows: Sequence[Row], config: DedupConfig | None = None) -> Duplicates:
    index = Index(folder / "rows", config or DedupConfig())
    for row in rows:
        index.add(row)
    assert len(index) == len(rows)
    return index.duplicates(lambda row: text_of(rows[row]))


def leaks_of(
    folder: Path, train: Sequence[Row], held_out: Sequence[Row], config: DedupConfig | None = None
) -> Leaks:
    config = config or DedupConfig()
    mine = Index(folder / "train", config)
    theirs = Index(folder / "eval", config, duplicates=False)
    for index, rows in ((mine, train), (theirs, held_out)):
        for row in rows:
            index.add(row)
    return leaks(
        mine, theirs, lambda row: question_text(train[row]), lambda row: question_text(held_out[row])
    )


LONG = "A 54-year-old man comes to the physician with chest pain that spreads to the left arm."


def test_the_first_of_equal_rows_is_kept_whatever_their_punctuation_and_width(tmp_path: Path) -> None:
    rows = [
        asked("What is BP?", "Blood pressure."),
        asked("Why?", "Because."),
        asked("what is  ＢＰ", "blood pressure"),
        asked("What is BP?", "Blood pressure!"),
    ]
    found = duplicates_of(tmp_path, rows)
    assert found.exact.tolist() == [[0, 2], [0, 3]]
    assert found.dropped.tolist() == [2, 3]
    assert found.near.tolist() == found.conflicts.tolist() == []


def test_a_row_with_a_few_edits_goes_to_the_first_kept_row_it_is_alike(tmp_path: Path) -> None:
    rows = [
        asked(LONG, "Angina."),
        asked("Something else entirely.", "Angina."),
        asked(LONG.replace("54", "55").replace("chest", "breast"), "Angina"),
        asked(LONG.replace("physician", "physican"), "Anginas"),
    ]
    found = duplicates_of(tmp_path, rows)
    assert found.near.tolist() == [[0, 2], [0, 3]]
    assert found.dropped.tolist() == [2, 3]
    assert ((found.similarity >= 0.87) & (found.similarity < 1)).all()


def test_a_chain_of_edits_is_not_followed_away_from_the_kept_row(tmp_path: Path) -> None:
    texts = [LONG, LONG[8:], LONG[16:], LONG[24:]]
    rows = [asked(text, "Angina pectoris, a disease of the heart.") for text in texts]
    found = duplicates_of(tmp_path, rows, DedupConfig(similarity=0.9))
    assert found.near.tolist() == [[0, 1], [2, 3]]


def test_the_same_question_with_another_answer_is_a_conflict_and_stays(tmp_path: Path) -> None:
    rows = [asked(LONG, "yes"), asked(LONG, "no"), asked(LONG + " Why", "no"), asked(LONG, "no")]
    found = duplicates_of(tmp_path, rows)
    assert found.exact.tolist() == [[1, 3]]
    assert [0, 1] in found.conflicts.tolist()
    assert 0 not in found.dropped
    assert 1 not in found.dropped


def test_pictures_and_empty_texts_are_nobodys_duplicates(tmp_path: Path) -> None:
    question = "What does the picture show?"
    rows = [
        asked(question, "A cat on a sofa.", ("1.png",)),
        asked(question, "A cat on a sofa.", ("2.png",)),
        Example((Message("assistant", " "),), "a:1"),
        Example((Message("assistant", ""),), "a:2"),
        asked(question, "A cat on a sofa.", ("1.png",)),
    ]
    assert duplicates_of(tmp_path, rows).dropped.tolist() == [4]


def test_each_kind_can_be_turned_off(tmp_path: Path) -> None:
    rows = [asked(LONG, "Angina."), asked(LONG, "Angina."), asked(LONG + " Why?", "Angina.")]
    only_exact = duplicates_of(tmp_path / "1", rows, DedupConfig(near=False))
    assert (only_exact.exact.tolist(), only_exact.near.tolist()) == ([[0, 1]], [])
    only_near = duplicates_of(tmp_path / "2", rows, DedupConfig(exact=False))
    assert (only_near.exact.tolist(), only_near.near.tolist()) == ([], [[0, 2]])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_handful_of_rows_is_no_special_case(tmp_path: Path, count: int) -> None:
    rows = [asked(f"question {i}", f"answer {i * 7}") for i in range(count)]
    assert len(duplicates_of(tmp_path / "d", rows).dropped) == 0
    assert leaks_of(tmp_path / "l", rows, rows).train_rows.tolist() == list(range(count))
    assert leaks_of(tmp_path / "e", rows, []).train_rows.tolist() == []


def test_leaks_name_the_training_row_once_with_the_nearest_held_out_row(tmp_path: Path) -> None:
    train = [asked("Unrelated.", "yes"), asked(LONG, "Angina."), asked(LONG + " Why?", "Angina.")]
    held_out = [
        asked(LONG.replace("chest", "breast").replace("54", "4"), "Asthma."),
        asked(LONG.replace("54", "55"), "Another answer."),
        asked(LONG.upper(), ""),
    ]
    found = leaks_of(tmp_path, train, held_out)
    assert found.exact.tolist() == [[1, 2]]
    assert found.near.tolist() == [[2, 2]]
    assert found.train_rows.tolist() == [1, 2]
    exact_only = leaks_of(tmp_path / "exact", train, held_out, DedupConfig(near=False))
    assert exact_only.train_rows.tolist() == [1]


def closed_questions(name: str) -> list[tuple[str, list[str], int]]:
    with (SHARED / name).open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    questions = [
        (
            record["question"],
            list(record["options"].values()),
            list(record["options"]).index(record["answer_idx"]),
        )
        for record in records
    ]
    random.Random(0).shuffle(questions)
    return questions


def editor(generator: random.Random, alphabet: str, most: float) -> Edit:
    def edit(text: str) -> str:
        characters = list(text)
        for _ in range(int(len(text) * most)):
            place = generator.randrange(len(characters))
            match generator.randrange(3):
                case 0:
                    characters[place] = generator.choice(alphabet)
                case 1:
                    characters.insert(place, generator.choice(alphabet))
                case _ if len(characters) > 1:
                    del characters[place]
        return "".join(characters)

    return edit


@real_data
@pytest.mark.parametrize("name", ["medmcqa/validation.jsonl", "cmexam/practice_train.jsonl"])
def test_planted_copies_are_found_and_untouched_rows_are_left_alone(tmp_path: Path, name: str) -> None:
    questions = closed_questions(name)
    half = len(questions) // 2
    train = [closed(*question) for question in questions[:half]]
    held_out = [closed(*question) for question in questions[half:]]
    generator = random.Random(1)
    edit = editor(generator, "".join(question for question, _, _ in questions[:200]), 0.1)
    copied, edited, rendered = [], [], []
    for question, options, answer in questions[half : half + 500]:
        shuffled = generator.sample(options, len(options))
        copied.append(closed(question.upper() + "  ", shuffled, 0))
        edited.append(closed(edit(question), [edit(option) for option in options], answer))
    lightly = editor(generator, "".join(question for question, _, _ in questions[:200]), 0.06)
    for row in held_out[500:1000]:
        listing, _, instruction = row.messages[0].content.rpartition("\n")
        text = f"{lightly(listing)}\n{instruction}"
        rendered.append(Example((Message("user", text), row.messages[1]), "b:1", row.options, row.answer))

    found = leaks_of(tmp_path, [*train, *copied, *edited, *rendered], held_out)
    assert set(range(half, half + 500)) <= set(found.exact[:, 0].tolist())
    leaking = np.isin(np.arange(half + 500, half + 1500), found.train_rows)
    assert leaking[:500].mean() >= 0.95
    assert leaking[500:].mean() >= 0.95
    assert np.count_nonzero(found.near[:, 0] < half) <= 0.01 * half
    assert found.capped == 0


@real_data
def test_one_long_instruction_does_not_make_short_sentences_duplicates(tmp_path: Path) -> None:
    instruction = "Is the following sentence from a film review positive or negative? Answer with one word: "
    with (SHARED / "sst2" / "train.jsonl").open(encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    rows = [asked(instruction + record["text"], str(record["label"])) for record in records]
    found = duplicates_of(tmp_path, rows)
    assert len(found.near) <= 0.005 * len(rows)
