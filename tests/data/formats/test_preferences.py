"""Preferred and rejected answers in all their shapes, and single answers with a verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.formats.fields import Fields
from seektune.data.formats.layouts import FORMATS
from seektune.data.formats.preferences import preference, rated
from seektune.errors import DataError
from seektune.types import Message, Pair

USER, GOOD, BAD = Message("user", "q"), Message("assistant", "good"), Message("assistant", "bad")


def turn(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": message.content}


def said(message: Message) -> dict[str, Any]:
    return {"from": {"user": "human", "assistant": "gpt"}[message.role], "value": message.content}


def pair(name: str = "preference", **record: Any) -> Pair:
    fields = Fields("rows.jsonl:7", record, FORMATS[name].columns)
    return (preference if name == "preference" else rated)(fields, {})


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": [said(USER)], "chosen": said(GOOD), "rejected": said(BAD)},
        {"conversations": [said(USER)], "chosen": "good", "rejected": "bad"},
        {"messages": [turn(USER)], "chosen": turn(GOOD), "rejected": turn(BAD)},
        {"prompt": "q", "chosen": "good", "rejected": "bad"},
        {"instruction": "q", "input": "", "chosen": "good", "rejected": "bad"},
        {"question": "q", "chosen": [turn(GOOD)], "rejected": [turn(BAD)]},
        {"prompt": [turn(USER)], "chosen": [turn(GOOD)], "rejected": [turn(BAD)]},
        {"chosen_messages": [turn(USER), turn(GOOD)], "rejected_messages": [turn(USER), turn(BAD)]},
        {"chosen": [turn(USER), turn(GOOD)], "rejected": [turn(USER), turn(BAD)]},
        {"prompt": "q", "chosen": [turn(USER), turn(GOOD)], "rejected": [turn(USER), turn(BAD)]},
    ],
)
def test_every_shape_is_a_prompt_with_two_answers(record: dict[str, Any]) -> None:
    assert pair(**record) == Pair((USER,), GOOD, BAD, "rows.jsonl:7")


def test_two_conversations_share_their_earlier_turns() -> None:
    before = [turn(USER), turn(GOOD), turn(USER)]
    found = pair(prompt="q", chosen=[*before, turn(GOOD)], rejected=[*before, turn(BAD)])
    assert found.prompt == (USER, GOOD, USER)
    system = Message("system", "be kind")
    sides = {"chosen": [turn(USER), turn(GOOD)], "rejected": [turn(USER), turn(BAD)]}
    assert pair(messages=[turn(system), turn(USER)], **sides).prompt == (system, USER)
    assert pair(messages=[turn(USER), turn(GOOD)], **sides).prompt == (USER,)  # the hub's ultrafeedback


def test_weights_tools_and_images_are_kept() -> None:
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "q"}]
    shown = {"role": "user", "content": parts, "loss_weight": 0.0}
    found = pair(
        chosen_messages=[shown, turn(GOOD) | {"loss_weight": 1.0}],
        rejected_messages=[shown, turn(BAD)],
        tools=[{"name": "f"}],
    )
    assert found.prompt == (Message("user", "<image>q", weight=0.0),)
    assert found.chosen is not None
    assert (found.chosen.weight, found.tools, found.images) == (1.0, '[{"name": "f"}]', ("a.png",))


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            {"prompt": "q", "chosen": "good", "rejected": "good"},
            "the chosen and the rejected answer are the same",
        ),
        ({"prompt": "q", "chosen": "good"}, "`rejected` is missing"),
        ({"prompt": "q", "chosen": "good", "rejected": " "}, "`rejected` must be text, is ' '"),
        ({"prompt": "q", "chosen": "good", "rejected": 3}, "`rejected` must be text, a turn or turns, is 3"),
        ({"chosen": "good", "rejected": "bad"}, "needs a prompt with a user turn"),
        (
            {"prompt": "q", "chosen": "good", "rejected": turn(USER)},
            "must be an assistant turn, is a user turn",
        ),
        (
            {"messages": [turn(USER), turn(GOOD)], "chosen": "x", "rejected": "y"},
            "must not end with an assistant",
        ),
        (
            {"chosen": [turn(USER), turn(GOOD)], "rejected": [turn(USER), turn(USER), turn(BAD)]},
            "differ before their last turn",
        ),
        (
            {"prompt": "p", "chosen": [turn(USER), turn(GOOD)], "rejected": [turn(USER), turn(BAD)]},
            "does not continue the prompt",
        ),
    ],
)
def test_a_preference_that_does_not_fit_is_named_by_place(record: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=f"rows.jsonl:7: .*{said}"):
        pair(**record)


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [turn(USER), turn(GOOD)]},
        {"conversations": [said(USER), said(GOOD)]},
        {"prompt": "q", "completion": "good"},
        {"prompt": [turn(USER)], "completion": [turn(GOOD)]},
        {"instruction": "q", "input": "", "output": "good"},
    ],
)
@pytest.mark.parametrize("label", [True, False, "false", 1])
def test_a_verdict_fills_one_side(record: dict[str, Any], label: Any) -> None:
    found = pair("kto", **record, label=label)
    sides = (GOOD, None) if label in (True, 1) else (None, GOOD)
    assert (found.prompt, found.chosen, found.rejected) == ((USER,), *sides)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": "q", "completion": "good", "label": "good"}, "`label` must be true or false, is 'good'"),
        ({"messages": [turn(USER)], "label": True}, "needs a user turn and an assistant turn last, has user"),
        ({"messages": [turn(GOOD), turn(GOOD)], "label": True}, "needs a prompt with a user turn"),
    ],
)
def test_a_rated_answer_that_does_not_fit_is_named_by_place(record: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=f"rows.jsonl:7: .*{said}"):
        pair("kto", **record)


def tried(read: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What `read` returns, or the DataError it raises."""
    try:
        return read(*args, **named)
    except DataError as error:
        return error


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.sampled_from(["", "x", "<image>"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": inner})
    ),
    max_leaves=6,
)
names = ["messages", "instruction", "prompt", "output", "chosen", "rejected", "label", "images", "tools"]


@given(st.dictionaries(st.sampled_from(names), values))
def test_any_record_is_read_or_refused_with_its_place(record: dict[str, Any]) -> None:
    for name in ("preference", "kto"):
        found = tried(pair, name, **record)
        if isinstance(found, DataError):
            assert str(found).startswith("rows.jsonl:7: ")
        else:
            assert found.prompt[-1].role != "assistant"
            assert found.chosen or found.rejected
