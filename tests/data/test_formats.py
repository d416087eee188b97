"""Records of three formats become examples; anything else is refused by name and place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.formats import FIELDS, QA_INSTRUCTION, format_of, read_records
from seektune.data.sources import Record
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


@pytest.mark.parametrize("options", [{"A": "C", "B": "D"}, ["C", "D"]])
def test_a_question_lists_its_lettered_options_and_the_answer_repeats_one(
    write: Write, options: object
) -> None:
    (example,) = read_records(write([QA | {"options": options}]))
    assert example.messages == (
        Message("user", f"Which vitamin?\nA. C\nB. D\n{QA_INSTRUCTION}"),
        Message("assistant", "B. D"),
    )
    assert (example.options, example.answer) == (("A. C", "B. D"), 1)


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


def test_a_record_may_bring_its_own_labels(write: Write) -> None:
    (example,) = read_records(write([{"text": "who?", "label": 1, "options": [0, 1]}]))
    assert (example.options, example.answer) == (("0", "1"), 1)


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


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (QA | {"answer_idx": "E"}, "answer_idx is 'E', but the options are A, B"),
        (QA | {"answer_idx": 1}, "answer_idx is 1, but the options are A, B"),
        (QA | {"answer_idx": ["A"]}, r"answer_idx is \['A'\], but the options are A, B"),
        (QA | {"options": {"A": "x"}}, "2 to 26 options"),
        (QA | {"options": "A B"}, "2 to 26 options"),
        (QA | {"options": ["x"] * 27}, "2 to 26 options"),
        (QA | {"options": {"A": "x", "B": None}}, "option B must be text or a number, is None"),
        (QA | {"question": " "}, "`question` must be text, is ' '"),
        ({"text": "who?", "label": True}, "`label` must be text or a number, is True"),
        ({"text": None, "label": "x"}, "`text` must be text, is None"),
        ({"text": "who?", "label": "x", "options": ["y", "z"]}, "label 'x' is not among y, z"),
        ({"text": "who?", "label": "y", "options": ["y", "y"]}, "an option occurs twice"),
        ({"text": "who?", "label": "y", "options": "y"}, "must be a list of labels"),
        ({"messages": []}, "must be a list"),
        ({"messages": ["hi"]}, "message 0 is not an object"),
        (
            {"messages": [{"role": "human", "content": "hi"}]},
            "the role 'human'; known roles: system, user, assistant",
        ),
        ({"messages": [{"role": ["user"], "content": "hi"}]}, r"the role \['user'\]"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            r"message 0 \(user\) must have text",
        ),
        (
            {"messages": [{"role": "user", "content": "hi", "loss_weight": 0.0}]},
            "loss_weight, which would be ignored",
        ),
        ({"messages": CHAT["messages"][:1]}, "an assistant turn last, has user"),
        ({"messages": CHAT["messages"][1:]}, "needs a user turn"),
    ],
)
def test_a_record_that_does_not_fit_is_named_by_file_and_line(write: Write, record: Any, said: str) -> None:
    good = CHAT if "messages" in record else {"text": "a", "label": "y"} if "text" in record else QA
    with pytest.raises(DataError, match=f"rows.jsonl:2: .*{said}"):
        read_records(write([good, record]))


def test_a_label_outside_the_given_labels_names_the_near_miss(write: Write) -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1: the label 'surgary' .* did you mean 'surgery'"):
        read_records(write([{"text": "a", "label": "surgary"}]), labels=("surgery", "anatomy"))


def test_a_later_record_without_the_files_fields_is_named(write: Write) -> None:
    with pytest.raises(
        DataError, match=r"rows.jsonl:2: `answer_idx` is missing; the record has question, options"
    ):
        read_records(write([QA, {key: QA[key] for key in ("question", "options")}]))


def test_an_unknown_shape_is_refused_with_what_was_seen_and_the_nearest_format(write: Write) -> None:
    seen = {"question": "?", "option": ["x"], "answer": "x"}
    with pytest.raises(
        DataError, match=r"question, option, answer; the nearest format is qa.* options, answer_idx"
    ):
        read_records(write([seen]))
    with pytest.raises(DataError, match=r"the fields nothing|no fields at all"):
        read_records(write([{}]))


def test_a_named_format_is_not_guessed(write: Write) -> None:
    with pytest.raises(DataError, match="the format is classification, which also needs text, label"):
        read_records(write([QA]), format="classification")
    with pytest.raises(DataError, match="unknown data format 'alpaca'; known: auto, messages, qa"):
        read_records(write([QA]), format="alpaca")


def test_an_empty_file_is_an_error_not_an_empty_list(write: Write) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl holds no records"):
        read_records(write([]))


@given(
    st.dictionaries(st.sampled_from([key for keys in FIELDS.values() for key in keys]) | st.text(), st.none())
)
def test_detection_names_a_format_whose_fields_are_there_or_refuses(fields: dict[str, None]) -> None:
    record = Record("rows.jsonl", 3, dict(fields))
    complete = [name for name, needed in FIELDS.items() if all(key in fields for key in needed)]
    if complete:
        assert format_of(record) == complete[0]
    else:
        with pytest.raises(DataError, match=r"rows.jsonl:3 has the fields"):
            format_of(record)


@pytest.mark.parametrize(
    ("name", "rows", "options"),
    [
        ("medqa/dev_5opt.jsonl", 1272, {5}),
        ("medmcqa/validation.jsonl", 4183, {4}),
        ("cmexam/practice_train.jsonl", 5330, {4, 5}),
        ("trec/train.jsonl", 5452, {6}),
        ("sst2/dev.jsonl", 872, {2}),
        ("esft_intent/train.jsonl", 7280, {0}),
    ],
)
def test_real_files_are_read_to_the_last_row(
    real_data: Path, name: str, rows: int, options: set[int]
) -> None:
    examples = read_records([real_data / name])
    assert len(examples) == rows
    assert {len(example.options) for example in examples} == options
    for example in examples:
        assert not example.options or example.messages[-1].content == example.options[example.answer or 0]
