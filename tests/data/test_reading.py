"""Files are read whole into examples; the first record that cannot be used is an error with its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seektune.data.formats.questions import QA_INSTRUCTION
from seektune.data.reading import read_records
from seektune.errors import DataError
from seektune.types import Message

Write = Callable[..., Path]
QA = {"question": "Which vitamin?", "options": {"A": "C", "B": "D"}, "answer_idx": "B"}
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}


def test_messages_are_read_turn_by_turn(write: Write) -> None:
    path = write([{"messages": [{"role": "system", "content": "be kind"}, *CHAT["messages"]], "id": 7}])
    (example,) = read_records([path])
    assert example.messages == (
        Message("system", "be kind"),
        Message("user", "hi"),
        Message("assistant", "hello"),
    )
    assert (example.row_id, example.options, example.answer) == (f"{path}:1", (), None)


def test_a_question_lists_its_lettered_options(write: Write) -> None:
    (example,) = read_records(write([QA]))
    assert example.messages == (
        Message("user", f"Which vitamin?\nA. C\nB. D\n{QA_INSTRUCTION}"),
        Message("assistant", "B. D"),
    )


def test_a_classification_answers_with_the_label_among_all_labels_seen(write: Write) -> None:
    first = write([{"text": "where?", "label": "place"}], "a.jsonl")
    second = write([{"text": "who?", "label": "person"}, {"text": "how many?", "label": 3}], "b.jsonl")
    examples = read_records([first, second])
    assert [example.options for example in examples] == [("3", "person", "place")] * 3
    assert [example.messages[-1].content for example in examples] == ["place", "person", "3"]
    assert [example.answer for example in examples] == [2, 1, 0]


def test_labels_can_be_given_in_an_order_of_their_own(write: Write) -> None:
    (example,) = read_records(
        write([{"text": "who?", "label": "person"}]), labels=("place", "person", "thing")
    )
    assert (example.options, example.answer) == (("place", "person", "thing"), 1)


def test_a_label_outside_the_given_labels_names_the_near_miss(write: Write) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1: the label 'surgary' .* did you mean 'surgery'"):
        read_records(write([{"text": "a", "label": "surgary"}]), labels=("surgery", "anatomy"))


def test_medmcqa_is_understood_beside_its_other_records(write: Write) -> None:
    rows = [{"question": "?", "opa": "w", "opb": "x", "opc": "y", "opd": "z", "cop": cop} for cop in (1, 4)]
    assert [example.answer for example in read_records(write(rows))] == [0, 3]


def test_the_prefix_opens_every_user_turn_and_no_other(write: Write) -> None:
    path = write([{"messages": [*CHAT["messages"], *CHAT["messages"]]}])
    (example,) = read_records([path], prompt_prefix="[MEDICAL] 问题:")
    assert [turn.content for turn in example.messages] == ["[MEDICAL] 问题:hi", "hello"] * 2
    for record, text in ((QA, "Which vitamin?"), ({"text": "who?", "label": "x"}, "who?")):
        (example,) = read_records(write([record]), prompt_prefix="[MEDICAL] 问题:")
        assert example.messages[0].content.startswith(f"[MEDICAL] 问题:{text}")


def test_each_file_has_a_format_of_its_own(write: Write) -> None:
    examples = read_records([write([QA], "qa.jsonl"), write([CHAT], "chat.jsonl")])
    assert [len(example.options) for example in examples] == [2, 0]


def test_an_entry_of_a_dataset_info_cannot_be_meant_without_its_name(write: Write, tmp_path: Path) -> None:
    info = tmp_path / "dataset_info.json"
    info.write_text(json.dumps({"chat": {"file_name": "rows.jsonl"}}), encoding="utf-8")
    with pytest.raises(DataError, match="say which with dataset: one of chat"):
        read_records(info)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (QA | {"answer_idx": "E"}, "answer_idx is 'E', but the options are A, B"),
        ({"text": None, "label": "x"}, "`text` must be text, is None"),
        ({"messages": []}, "must be a list"),
        ({"messages": [{"role": "user", "content": "hi", "mood": 1}]}, "mood, which would be ignored"),
    ],
)
def test_a_record_that_does_not_fit_is_named_by_file_and_line(write: Write, record: Any, said: str) -> None:
    good = CHAT if "messages" in record else {"text": "a", "label": "y"} if "text" in record else QA
    with pytest.raises(DataError, match=f"rows.jsonl:2: .*{said}"):
        read_records(write([good, record]))


def test_a_later_record_without_the_files_fields_is_named(write: Write) -> None:
    with pytest.raises(
        DataError, match=r"rows.jsonl:2: `answer_idx` is missing; the record has question, options"
    ):
        read_records(write([QA, {key: QA[key] for key in ("question", "options")}]))


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(QA) + "\n{", encoding="utf-8")
    with pytest.raises(DataError, match=r"rows.jsonl:2: "):
        read_records(path)


def test_an_unknown_shape_is_refused_with_what_was_seen_and_the_nearest_format(write: Write) -> None:
    with pytest.raises(DataError, match=r"question, option, answer; the nearest format is qa.* options"):
        read_records(write([{"question": "?", "option": ["x"], "answer": "x"}]))


def test_a_named_format_is_not_guessed(write: Write) -> None:
    with pytest.raises(DataError, match="the format is classification, which also needs text, label"):
        read_records(write([QA]), format="classification")
    with pytest.raises(DataError, match="unknown data format 'alpaka'; known: auto, "):
        read_records(write([QA]), format="alpaka")


def test_preferences_are_no_examples(write: Write) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1 is a preference \(preference\), not an example"):
        read_records(write([{"prompt": "q", "chosen": "a", "rejected": "b"}]))


def test_an_empty_file_is_an_error_not_an_empty_list(write: Write) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl holds no records"):
        read_records(write([]))


@pytest.mark.parametrize(
    ("name", "rows", "options"),
    [
        ("medqa/dev_5opt.jsonl", 1272, {5}),
        ("trec/train.jsonl", 5452, {6}),
        ("esft_intent/train.jsonl", 7280, {0}),
    ],
)
def test_real_files_are_read_to_the_last_row(
    real_data: Path, name: str, rows: int, options: set[int]
) -> None:
    examples = read_records([real_data / name])
    assert len(examples) == rows
    assert {len(example.options) for example in examples} == options
