"""Questions with options, of every layout they come in, become closed examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.formats.fields import Fields
from seektune.data.formats.layouts import FORMATS
from seektune.data.formats.questions import (
    QA_CHINESE_SEVERAL,
    QA_INSTRUCTION,
    classified,
    decision,
    medmcqa,
    options_of,
    question,
)
from seektune.errors import DataError
from seektune.types import Message

QA = {"question": "Which vitamin?", "options": {"A": "C", "B": "D"}, "answer_idx": "B"}
CMEXAM = {"Question": "哪些是维生素？", "Options": "A 维生素C\nB 铁\nC 维生素D\nD 钙", "Answer": "AC"}
MEDMCQA = {"question": "?", "opa": "w", "opb": "x", "opc": "y", "opd": "z", "cop": 2, "exp": "because"}


def fields(record: dict[str, Any], name: str = "qa") -> Fields:
    return Fields("rows.jsonl:7", record, FORMATS[name].columns)


@pytest.mark.parametrize(
    "record",
    [
        QA,
        QA | {"options": ["C", "D"]},
        QA | {"options": ["C", "D"], "answer_idx": 1},
        QA | {"options": [{"key": "A", "value": "C"}, {"key": "B", "value": "D"}]},
        QA | {"options": {"A": "C", "B": "D", "C": None}},
        {"question": "Which vitamin?", "options": {"A": "C", "B": "D"}, "answer": "D"},
        {"question": "Which vitamin?", "choices": ["C", "D"], "answer": 1},
        {
            "question": "Which vitamin?",
            "choices": {"text": ["C", "D"], "label": ["A", "B"]},
            "answerKey": "B",
        },
        QA | {"answer": "D", "meta_info": "step1"},
    ],
)
def test_a_question_lists_its_lettered_options_and_the_answer_repeats_one(record: dict[str, Any]) -> None:
    example = question(fields(record))
    assert example.messages == (
        Message("user", f"Which vitamin?\nA. C\nB. D\n{QA_INSTRUCTION}"),
        Message("assistant", "B. D"),
    )
    assert (example.options, example.answer, example.row_id) == (("A. C", "B. D"), 1, "rows.jsonl:7")


def test_several_right_letters_are_an_open_answer_with_the_options_listed() -> None:
    example = question(fields(CMEXAM, "cmexam"))
    listed = "A. 维生素C\nB. 铁\nC. 维生素D\nD. 钙"
    assert example.messages == (
        Message("user", f"哪些是维生素？\n{listed}\n{QA_CHINESE_SEVERAL}"),
        Message("assistant", "A. 维生素C\nC. 维生素D"),
    )
    assert (example.options, example.answer) == ((), None)
    assert question(fields(CMEXAM | {"Answer": "C，A"}, "cmexam")) == example


def test_one_right_letter_of_cmexam_is_a_closed_question() -> None:
    example = question(fields(CMEXAM | {"Answer": "D"}, "cmexam"))
    assert (example.messages[1].content, example.answer) == ("D. 钙", 3)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("A 胃\nB 肝\n", {"A": "胃", "B": "肝"}),
        ("A. 胃\nB．肝\nC、肺", {"A": "胃", "B": "肝", "C": "肺"}),
        ("A 胃\nA 型肝炎\nC 肺", {"A": "胃\nA 型肝炎", "C": "肺"}),
        ("A. stomach B. liver C. p<0.05", {"A": "stomach", "B": "liver", "C": "p<0.05"}),
        ("A B 超\nB CT", {"A": "B 超", "B": "CT"}),
    ],
)
def test_options_of_a_text_are_split_at_their_own_letters(text: str, options: dict[str, str]) -> None:
    assert options_of(fields({"options": text})) == options


@pytest.mark.parametrize(("first", "answer"), [(0, 2), (1, 1)])
@pytest.mark.parametrize("cop", [2, "2", 2.0])
def test_medmcqa_counts_from_zero_or_from_one(first: int, answer: int, cop: Any) -> None:
    example = medmcqa(fields(MEDMCQA | {"cop": cop}, "medmcqa"), first)
    assert example.options == ("A. w", "B. x", "C. y", "D. z")
    assert example.answer == answer


@pytest.mark.parametrize(
    ("first", "cop", "said"),
    [
        (0, -1, "`cop` is -1, but the options are 0 to 3"),
        (0, 4, "`cop` is 4"),
        (1, 0, "`cop` is 0, but the options are 1 to 4"),
        (1, "b", "must be the number of the right option"),
        (1, True, "must be the number"),
    ],
)
def test_a_number_outside_the_options_is_refused(first: int, cop: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"rows.jsonl:7: .*{said}"):
        medmcqa(fields(MEDMCQA | {"cop": cop}, "medmcqa"), first)


@pytest.mark.parametrize(
    "record",
    [
        {"QUESTION": "Does it?", "CONTEXTS": ["We tried.", "It did."], "final_decision": "yes"},
        {"question": "Does it?", "context": {"contexts": ["We tried.", "It did."]}, "final_decision": "yes"},
        {"question": "Does it?", "context": "We tried.\nIt did.", "answer": "Yes"},
    ],
)
def test_a_decision_is_yes_no_or_maybe_about_its_contexts(record: dict[str, Any]) -> None:
    example = decision(fields(record, "pubmedqa"))
    assert example.messages[0].content == "Does it?\n\nWe tried.\nIt did.\n\nAnswer with yes, no or maybe."
    assert (example.options, example.answer) == (("yes", "no", "maybe"), 0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "perhaps"}, "must be yes, no or maybe"),
        ({"context": [1]}, "must be text or a list of texts"),
    ],
)
def test_a_decision_of_another_shape_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        decision(fields({"question": "?", "context": "c", "answer": "no"} | change, "pubmedqa"))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (QA | {"answer_idx": "E"}, "answer_idx is 'E', but the options are A, B"),
        (QA | {"answer_idx": 1}, "answer_idx is 1, but the options are A, B"),
        (QA | {"answer_idx": ["A"]}, r"answer_idx is \['A'\], but the options are A, B"),
        (QA | {"answer_idx": "AA"}, "answer_idx is 'AA'"),
        (QA | {"options": ["C", "D"], "answer_idx": 2}, "answer_idx is 2"),
        (QA | {"options": {"A": "x"}}, "2 to 26 options"),
        (QA | {"options": "A B"}, "2 to 26 options"),
        (QA | {"options": ["x"] * 27}, "2 to 26 options"),
        (QA | {"options": {"A": "x", "B": None}}, "option B must be text or a number, is None"),
        (QA | {"question": " "}, "`question` must be text, is ' '"),
        (QA | {"answer": "C"}, "answer_idx is 'B', but `answer` is 'C': which of the two is right"),
        ({"question": "?", "options": ["x", "x"], "answer": "x"}, "answer is 'x', but"),
        (
            {"question": "?", "options": ["x", "y"]},
            "`answer_idx` is missing; the record has question, options",
        ),
    ],
)
def test_a_question_that_does_not_fit_is_named_by_place(record: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"rows.jsonl:7: .*{said}"):
        question(fields(record))


def test_a_classification_answers_with_its_label() -> None:
    example = classified(fields({"text": "who?", "label": 1}, "classification"), ("0", "1"))
    assert example.messages == (Message("user", "who?"), Message("assistant", "1"))
    assert (example.options, example.answer) == (("0", "1"), 1)


def test_a_record_may_bring_its_own_labels() -> None:
    record = {"text": "who?", "label": 1, "options": [0, 1]}
    assert classified(fields(record, "classification"), ()).options == ("0", "1")


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"text": "who?", "label": True}, "`label` must be text or a number, is True"),
        ({"text": None, "label": "x"}, "`text` must be text, is None"),
        ({"text": "who?", "label": "x", "options": ["y", "z"]}, "label 'x' is not among y, z"),
        ({"text": "who?", "label": "y", "options": ["y", "y"]}, "an option occurs twice"),
        ({"text": "who?", "label": "y", "options": "y"}, "must be a list of labels"),
        ({"text": "who?", "label": "surgary"}, "label 'surgary' .* did you mean 'surgery'"),
    ],
)
def test_a_label_that_does_not_fit_is_named_by_place(record: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"rows.jsonl:7: .*{said}"):
        classified(fields(record, "classification"), ("surgery", "x"))


def test_images_of_a_question_are_marked_in_front() -> None:
    example = question(fields(QA | {"images": ["a.png"]}))
    assert example.messages[0].content.startswith("<image>\nWhich vitamin?")
    assert example.images == ("a.png",)


def tried(read: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What `read` returns, or the DataError it raises."""
    try:
        return read(*args, **named)
    except DataError as error:
        return error


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "A", "AB", "A x\nB y", "key"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["A", "B", "key", "value", "text", "label", "contexts"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@given(st.fixed_dictionaries(dict.fromkeys(["question", "options", "answer_idx", "answer"], json_values)))
def test_any_question_is_read_or_refused_with_its_place(record: dict[str, Any]) -> None:
    names = ("opa", "opb", "opc", "opd", "cop", "context", "label", "text")
    wider = record | dict.fromkeys(names, record["answer"])
    for name, read in (
        ("qa", question),
        ("pubmedqa", decision),
        ("medmcqa", lambda seen: medmcqa(seen, 0)),
        ("classification", lambda seen: classified(seen, ("A", "B"))),
    ):
        example = tried(read, fields(wider, name))
        if isinstance(example, DataError):
            assert str(example).startswith("rows.jsonl:7: ")
        else:
            assert not example.options or example.messages[-1].content == example.options[example.answer or 0]
