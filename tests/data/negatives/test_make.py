"""Rejected answers are wrong as far as can be told, the same every time, and counted."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from seektune.config.data import NegativesConfig
from seektune.data.negatives.answers import near_equal
from seektune.data.negatives.make import Counts, negatives
from seektune.types import Example, Message, Pair


def open_row(question: str, answer: str, line: int = 1, images: tuple[str, ...] = ()) -> Example:
    messages = (Message("user", question), Message("assistant", answer))
    return Example(messages, f"a.jsonl:{line}", images=images)


def closed_row(question: str, options: Sequence[str], answer: int, line: int = 1) -> Example:
    lettered = tuple(f"{letter}. {text}" for letter, text in zip("ABCDE", options, strict=False))
    asked = Message("user", "\n".join([question, *lettered]))
    return Example((asked, Message("assistant", lettered[answer])), f"q.jsonl:{line}", lettered, answer)


def made(rows: Sequence[Example], kinds: tuple[str, ...], per_row: int = 1) -> tuple[list[Pair], Counts]:
    counts = Counts()
    config = NegativesConfig.model_validate({"kinds": kinds, "per_row": per_row})
    return list(negatives(rows, config, 0, counts)), counts


def rejected(pairs: Sequence[Pair]) -> list[str]:
    return [pair.rejected.content for pair in pairs if pair.rejected]


def test_a_wrong_option_is_rejected_for_the_right_one() -> None:
    row = closed_row("Which vitamin?", ["C", "D", "E"], 1)
    pairs, counts = made([row], ("options",), per_row=5)
    assert sorted(rejected(pairs)) == ["A. C", "C. E"]
    assert all(pair.prompt == row.prompt and pair.chosen == row.messages[-1] for pair in pairs)
    assert counts.to_json()["options"] == {"made": 2, "refused": 0}


def test_an_option_that_may_be_right_is_refused_and_counted() -> None:
    pairs, counts = made([closed_row("Which?", ["Aspirin", "aspirin.", "Ibuprofen"], 0)], ("options",), 3)
    assert rejected(pairs) == ["C. Ibuprofen"]
    assert (counts.made["options"], counts.refused["options"]) == (1, 1)
    pairs, counts = made([closed_row("Which?", ["One", "Two", "All of the above"], 2)], ("options",))
    assert (pairs, counts.refused["options"], counts.without) == ([], 2, 1)


def test_another_rows_answer_is_taken_unless_it_answers_this_question_too() -> None:
    rows = [open_row("Capital of France?", "Paris", 1), open_row("capital of  France", "It is Paris.", 2)]
    rows += [open_row("Capital of Italy?", "Rome", 3)]
    pairs, counts = made(rows, ("in_batch",))
    assert rejected(pairs)[:2] == ["Rome", "Rome"]
    assert rejected(pairs)[2] in ("Paris", "It is Paris.")
    assert counts.refused["in_batch"] > 0


def test_the_same_words_about_another_image_are_another_question() -> None:
    rows = [
        open_row("<image>What is it?", answer, line, (f"{line}.png",))
        for line, answer in enumerate(["cat", "dog"])
    ]
    assert rejected(made(rows, ("in_batch",))[0]) == ["dog", "cat"]


def test_an_answer_that_shows_an_image_is_not_lent() -> None:
    rows = [open_row("Draw a cat", "<image>", 1, ("cat.png",)), open_row("Say cat", "cat", 2)]
    assert [pair.row_id for pair in made(rows, ("in_batch",))[0]] == ["a.jsonl:1"]


def test_closed_questions_get_answers_of_closed_questions() -> None:
    rows = [
        closed_row("Which?", ["one", "two"], 0, 1),
        *[open_row(f"What is {n}?", f"word {n}", n) for n in range(20)],
    ]
    pairs, _ = made(rows, ("in_batch",), per_row=3)
    assert all(pair.row_id.startswith("a.jsonl") for pair in pairs)


def test_mined_answers_come_from_the_nearest_question_that_is_not_nearly_the_same() -> None:
    rows = [
        open_row("How is acute asthma treated in children?", "Salbutamol", 1),
        open_row("How is acute asthma treated in the children?", "Bronchodilators", 2),
        open_row("How is chronic asthma treated in adults at home?", "Inhaled steroids", 3),
        open_row("Who wrote the national anthem?", "Somebody", 4),
    ]
    pairs, counts = made(rows, ("mined",))
    assert rejected(pairs)[0] == "Inhaled steroids"
    assert counts.examples[0]["how"] == "a.jsonl:3"


def test_open_answers_are_corrupted_and_closed_ones_are_not() -> None:
    rows = [open_row("Dose?", "It is 5 mg. It is safe.", 1), closed_row("Which?", ["5 mg", "6 mg"], 0, 2)]
    pairs, counts = made(rows, ("corrupted",), per_row=9)
    assert {pair.row_id for pair in pairs} == {"a.jsonl:1"}
    assert {example["how"] for example in counts.examples} <= {
        "number_changed",
        "negation_flipped",
        "sentence_swapped",
    }
    assert counts.without == 1


def test_kinds_take_turns_and_one_that_a_row_does_not_allow_leaves_its_place() -> None:
    rows = [closed_row(f"Which {n}?", [f"a{n}", f"b{n}", f"c{n}"], 0, n) for n in range(40)]
    rows += [open_row(f"What is {n}?", f"It is {n} and not more.", n) for n in range(40)]
    pairs, counts = made(rows, ("options", "corrupted"))
    assert len(pairs) == 80
    assert (counts.made["options"], counts.made["corrupted"]) == (40, 40)
    _, counts = made(rows[:40], ("options", "in_batch"))
    assert all(10 <= counts.made[kind] <= 30 for kind in ("options", "in_batch"))


@pytest.mark.parametrize(
    "messages",
    [
        (Message("assistant", "plain text"),),
        (Message("user", "no answer"),),
        (Message("user", "empty"), Message("assistant", "<think>a</think>\n")),
    ],
)
def test_a_row_without_a_question_or_an_answer_in_words_is_passed_over(messages: tuple[Message, ...]) -> None:
    rows = [Example(messages, "a:1"), open_row("What?", "It is 5.")]
    pairs, counts = made(rows, ("in_batch", "mined", "corrupted"))
    assert [pair.row_id for pair in pairs] == ["a.jsonl:1"]
    assert counts.without == 1


def test_the_same_rows_give_the_same_pairs_and_another_seed_others() -> None:
    rows = [closed_row(f"Which {n}?", ["a", "b", "c", "d"], 0, n) for n in range(20)]
    config = NegativesConfig()
    assert list(negatives(rows, config, 3)) == list(negatives(rows, config, 3))
    assert list(negatives(rows, config, 3)) != list(negatives(rows, config, 4))
    assert list(negatives([], config, 3)) == []


def test_the_report_shows_three_of_each_kind() -> None:
    rows = [closed_row(f"Which {n}?", ["a", "b"], 0, n) for n in range(9)]
    shown = made(rows, ("options",))[1].to_json()
    assert shown["options"] == {"made": 9, "refused": 0}
    assert shown["examples"][0] == {
        "kind": "options",
        "how": "option",
        "row": "q.jsonl:0",
        "question": "Which 0?\nA. a\nB. b",
        "chosen": "A. a",
        "rejected": "B. b",
    }
    assert len(shown["examples"]) == 3


@pytest.mark.parametrize("name", ["medmcqa/validation.jsonl", "cmexam/practice_train.jsonl"])
def test_no_real_negative_is_near_the_gold_and_almost_every_question_gets_one(
    real_data: Path, name: str
) -> None:
    records = [
        json.loads(line) for line in (real_data / name).read_text(encoding="utf-8").splitlines()[:1500]
    ]
    rows = [
        closed_row(
            record["question"],
            list(record["options"].values()),
            list(record["options"]).index(record["answer_idx"]),
            line,
        )
        for line, record in enumerate(records)
    ]
    start = time.process_time()
    pairs, counts = made(rows, ("options", "in_batch", "mined"))
    assert time.process_time() - start < 5
    assert len(pairs) >= 0.97 * len(rows)
    assert counts.made.total() == len(pairs)
    for pair in pairs:
        assert pair.chosen is not None
        assert pair.rejected is not None
        assert not near_equal(pair.chosen.content, pair.rejected.content)
