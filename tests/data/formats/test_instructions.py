"""Instructions with answers, answers with reasoning, and plain text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.formats.fields import Fields
from seektune.data.formats.instructions import extracted, instruction, plain, reasoning
from seektune.data.formats.layouts import FORMATS
from seektune.errors import DataError
from seektune.types import Message


def fields(name: str, **record: Any) -> Fields:
    return Fields("rows.jsonl:7", record, FORMATS[name].columns)


def alpaca(**record: Any) -> tuple[Message, ...]:
    return instruction(fields("alpaca", **record)).messages


def test_instruction_and_input_are_one_user_turn() -> None:
    assert alpaca(instruction="Translate", input="Hund", output="dog") == (
        Message("user", "Translate\nHund"),
        Message("assistant", "dog"),
    )
    assert alpaca(instruction="Say hi", input="", output="hi")[0].content == "Say hi"
    assert alpaca(instruction="", input="Say hi", output="hi")[0].content == "Say hi"


def test_system_and_history_stand_before_the_instruction() -> None:
    messages = alpaca(instruction="c", output="d", system="be kind", history=[["a", "b"]])
    assert [(message.role, message.content) for message in messages] == [
        ("system", "be kind"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
        ("assistant", "d"),
    ]


@pytest.mark.parametrize(
    "record",
    [
        {"question": "q", "answer": "a"},
        {"prompt": "q", "completion": "a"},
        {"prompt": "q", "response": "a"},
        {"instruction": "q", "context": "", "response": "a"},
        {"query": "q", "response": "a"},
    ],
)
def test_questions_and_answers_go_by_many_names(record: dict[str, Any]) -> None:
    assert alpaca(**record) == (Message("user", "q"), Message("assistant", "a"))


def test_images_without_marks_stand_in_front_and_need_no_instruction() -> None:
    example = instruction(fields("alpaca", instruction="What?", image="a.png", output="An X-ray."))
    assert (example.messages[0].content, example.images) == ("<image>\nWhat?", ("a.png",))
    assert alpaca(images=["a.png", "b.png"], caption="Two.")[0].content == "<image><image>"
    assert alpaca(instruction="What is <image>?", images=["a"], output="x")[0].content == "What is <image>?"


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"instruction": "q", "output": " "}, "`output` must be text, is ' '"),
        ({"instruction": "", "output": "a"}, "`instruction` must be text, is ''"),
        ({"instruction": "q"}, "`output` is missing; the record has instruction"),
        ({"instruction": 3, "output": "a"}, "`instruction` must be text, is 3"),
        ({"instruction": "q", "output": "a", "history": "x"}, "must be a list of .question, answer. pairs"),
        (
            {"instruction": "q", "output": "a", "history": [["x"]]},
            "must hold .question, answer. pairs of text",
        ),
        ({"instruction": "<image>", "output": "a", "images": ["x", "y"]}, "1 <image> marks for 2 images"),
    ],
)
def test_an_instruction_that_does_not_fit_is_named_by_place(record: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=f"rows.jsonl:7: .*{said}"):
        alpaca(**record)


@pytest.mark.parametrize(
    "record",
    [
        {"Question": "q", "Complex_CoT": "thoughts", "Response": "a"},
        {"question": "q", "reasoning_content": "thoughts", "answer": "a"},
        {"instruction": "q", "cot": "thoughts", "output": "a"},
    ],
)
def test_reasoning_stands_before_the_answer(record: dict[str, Any]) -> None:
    assert reasoning(fields("reasoning", **record)).messages == (
        Message("user", "q"),
        Message("assistant", "<think>\nthoughts\n</think>\n\na"),
    )


def test_the_options_of_a_reasoned_question_are_listed_unless_the_question_was_rewritten() -> None:
    record = {"question": "which?", "options": {"A": "x", "B": "y"}, "complex_cot": "t", "response": "r"}
    assert reasoning(fields("reasoning", **record)).messages[0].content == "which?\nA. x\nB. y"
    rewritten = record | {"Question": "What is it?"}
    assert reasoning(fields("reasoning", **rewritten)).messages[0].content == "What is it?"


def test_plain_text_has_no_user_turn() -> None:
    assert plain(fields("text", text="Once upon a time")).messages == (
        Message("assistant", "Once upon a time"),
    )


def test_a_document_gives_pairs_or_stands_whole() -> None:
    pair = {"question": "何时?", "answer": "饭后。", "span": [0, 9]}
    assert extracted(fields("document", **pair)).messages == (
        Message("user", "何时?"),
        Message("assistant", "饭后。"),
    )
    whole = extracted(fields("document", text="# Title\n", kind="markdown"))
    assert whole.messages == (Message("assistant", "# Title\n"),)


def tried(read: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What `read` returns, or the DataError it raises."""
    try:
        return read(*args, **named)
    except DataError as error:
        return error


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.sampled_from(["", "x", "<image>"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just("A"), inner),
    max_leaves=5,
)
names = [
    "instruction",
    "input",
    "output",
    "history",
    "system",
    "images",
    "tools",
    "text",
    "reasoning",
    "options",
]


@given(st.fixed_dictionaries(dict.fromkeys(names, json_values)))
def test_any_record_is_read_or_refused_with_its_place(record: dict[str, Any]) -> None:
    for name, read in (("alpaca", instruction), ("reasoning", reasoning), ("text", plain)):
        example = tried(read, fields(name, **record))
        if isinstance(example, DataError):
            assert str(example).startswith("rows.jsonl:7: ")
        else:
            assert example.messages[-1].role == "assistant"
