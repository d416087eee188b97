"""The simple baselines learn what they can and look at no test row while choosing."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seektune.data.reading import read_records
from seektune.evaluation import baselines
from seektune.evaluation.baselines import SETTINGS, majority, share_options, tfidf
from seektune.types import Example, Message

LETTERS = "ABCD"


def question(row: int, texts: list[str], answer: int) -> Example:
    options = tuple(f"{letter}. {text}" for letter, text in zip(LETTERS, texts, strict=False))
    messages = (Message("user", f"question {row}"), Message("assistant", options[answer]))
    return Example(messages, f"rows.jsonl:{row}", options, answer)


def test_the_majority_is_the_commonest_training_label(colours: list[Example]) -> None:
    train = [*colours[:3], colours[0]]  # blue twice
    assert majority(train, colours[:3]) == [True, False, False]


def test_the_majority_of_questions_with_own_options_is_a_letter() -> None:
    rows = [question(0, ["w", "x"], 1), question(1, ["y", "z"], 1), question(2, ["u", "v"], 0)]
    assert majority(rows, rows) == [True, True, False]


def test_labels_in_another_order_are_the_same_labels(colours: list[Example]) -> None:
    turned = [replace(row, options=row.options[::-1], answer=2 - (row.answer or 0)) for row in colours]
    assert share_options([*colours, *turned])
    assert majority(colours[:3] + colours[:1], turned[:3]) == [True, False, False]
    assert all(tfidf(colours, turned))


def test_word_counts_solve_what_one_word_decides(colours: list[Example]) -> None:
    assert all(tfidf(colours[:12], colours[12:]))


def test_a_tell_tale_option_is_found_without_the_question() -> None:
    generator = random.Random(0)
    texts = [[*generator.sample([f"word{n}" for n in range(50)], 3), "all of the above"] for _ in range(60)]
    for options in texts:
        generator.shuffle(options)
    rows = [question(n, options, options.index("all of the above")) for n, options in enumerate(texts)]
    assert all(tfidf(rows[:40], rows[40:]))


def test_the_setting_is_chosen_without_the_test_rows(
    colours: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = colours[:15], colours[15:]
    calls = []
    by_question = baselines._by_question

    def watched(known: list[Example], asked: list[Example], *setting: float) -> list[bool]:
        calls.append((known, asked, setting))
        return by_question(known, asked, *setting)

    monkeypatch.setattr(baselines, "_by_question", watched)
    tfidf(train, test)
    *folds, last = calls
    assert last[:2] == (train, test)
    assert {call[2] for call in folds} == set(SETTINGS)
    for known, asked, _ in folds:
        assert sorted(map(id, [*known, *asked])) == sorted(map(id, train))
        assert {row.options[row.answer or 0] for row in asked} == {"blue", "green", "red"}


def test_the_best_setting_wins_and_the_plainest_wins_a_tie() -> None:
    rows = [question(n, ["w", "x"], 0) for n in range(9)]

    def only(best: set[tuple[bool, float]]) -> baselines.Right:
        return lambda _, asked, *setting: [setting in best] * len(asked)

    assert baselines._best_setting(only({SETTINGS[4]}), rows) == SETTINGS[4]
    assert baselines._best_setting(only({SETTINGS[2], SETTINGS[3]}), rows) == SETTINGS[2]
    assert baselines._best_setting(only(set()), rows) == SETTINGS[0]


def test_one_label_and_very_few_rows_are_no_accident(colours: list[Example]) -> None:
    blue = [row for row in colours if row.answer == 0]
    assert tfidf(blue, colours[:3]) == [True, False, False]
    assert len(tfidf(colours[:2], colours)) == len(colours)


@given(
    st.lists(
        st.tuples(st.text("ab甲 .?", min_size=1, max_size=3).filter(str.strip), st.integers(0, 2)),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=25, deadline=None)
def test_any_short_texts_get_an_answer_each(rows: list[tuple[str, int]]) -> None:
    examples = [
        Example(
            (Message("user", text), Message("assistant", "xyz"[label])),
            f"r:{n}",
            ("x", "y", "z"),
            label,
        )
        for n, (text, label) in enumerate(rows)
    ]
    assert len(tfidf(examples, examples)) == len(examples)


def test_on_real_questions_it_beats_the_majority(real_data: Path) -> None:
    rows = read_records(real_data / "trec/train.jsonl")[:900]
    train, test = rows[:600], rows[600:]
    right = tfidf(train, test)
    assert sum(right) > 0.6 * len(test) > sum(majority(train, test)) + 0.2 * len(test)
