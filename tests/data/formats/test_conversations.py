"""Lists of turns become messages: roles, parts, tools, reasoning, weights, images; nothing is ignored."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.formats.conversations import conversation, reasoned
from seektune.data.formats.fields import Fields
from seektune.data.formats.layouts import FORMATS
from seektune.errors import DataError
from seektune.types import Example, Message, ToolCall

HI = {"role": "user", "content": "hi"}
HELLO = {"role": "assistant", "content": "hello"}
CALL = {"name": "weather", "arguments": {"city": "北京"}}
CALLED = ToolCall("weather", '{"city": "北京"}')


def read(turns: Any, tags: dict[str, str] | None = None, **columns: Any) -> Example:
    fields = Fields("rows.jsonl:7", {"messages": turns, **columns}, FORMATS["messages"].columns)
    return conversation(fields, tags or {})


def test_openai_and_sharegpt_turns_say_the_same() -> None:
    openai = read([{"role": "system", "content": "be kind"}, HI, HELLO])
    sharegpt = read(
        [
            {"from": "system", "value": "be kind"},
            {"from": "human", "value": "hi"},
            {"from": "gpt", "value": "hello"},
        ]
    )
    assert openai == sharegpt
    assert openai.messages == (
        Message("system", "be kind"),
        Message("user", "hi"),
        Message("assistant", "hello"),
    )
    assert (openai.row_id, openai.options, openai.answer) == ("rows.jsonl:7", (), None)


def test_tags_name_the_keys_and_the_roles() -> None:
    tags = {"role_tag": "who", "content_tag": "said", "user_tag": "patient", "assistant_tag": "doctor"}
    turns = [{"who": "patient", "said": "it hurts"}, {"who": "doctor", "said": "where?"}]
    assert [message.role for message in read(turns, tags).messages] == ["user", "assistant"]
    with pytest.raises(DataError, match="has the role 'human'; known roles: patient, doctor"):
        read([{"who": "human", "said": "x"}], tags)


def test_function_calls_and_observations_become_tool_calls_and_tool_turns() -> None:
    turns = [
        {"from": "human", "value": "weather?"},
        {"from": "function_call", "value": json.dumps(CALL, ensure_ascii=False)},
        {"from": "observation", "value": "sunny"},
        {"from": "gpt", "value": "It is sunny."},
    ]
    example = read(turns, tools='[{"name": "weather"}]')
    assert example.messages[1:3] == (Message("assistant", "", (CALLED,)), Message("tool", "sunny"))
    assert example.tools == '[{"name": "weather"}]'


@pytest.mark.parametrize(
    "turn",
    [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": CALL}],
        },
        {"role": "assistant", "content": "", "function_call": CALL},
        {"role": "assistant", "content": [{"type": "tool_call", "value": json.dumps(CALL)}]},
        {"role": "assistant", "content": "", "tool_calls": [CALL | {"arguments": '{"city": "北京"}'}]},
    ],
)
def test_every_way_to_call_a_tool_is_read(turn: dict[str, Any]) -> None:
    assert read([HI, turn]).messages[1] == Message("assistant", "", (CALLED,))


def test_answers_of_tools_stand_in_the_order_of_their_calls() -> None:
    calls = [{"id": key, "function": CALL} for key in ("a", "b")]
    answers = [{"role": "tool", "tool_call_id": key, "content": key} for key in ("b", "a")]
    example = read([HI, {"role": "assistant", "content": None, "tool_calls": calls}, *answers, HELLO])
    assert [message.content for message in example.messages] == ["hi", "", "a", "b", "hello"]
    with pytest.raises(DataError, match="tool_call_id 'c' answers none of the calls"):
        read(
            [
                HI,
                {"role": "assistant", "content": "", "tool_calls": calls},
                answers[0] | {"tool_call_id": "c"},
            ]
        )


def test_reasoning_stands_in_front_of_the_answer() -> None:
    expected = "<think>\nsay hello\n</think>\n\nhello"
    parts = [{"type": "reasoning", "value": "say hello"}, {"type": "text", "value": "hello"}]
    assert reasoned("say hello", "hello") == expected
    assert read([HI, HELLO | {"reasoning_content": "say hello"}]).messages[1].content == expected
    assert read([HI, HELLO | {"content": parts}]).messages[1].content == expected


@pytest.mark.parametrize("key", ["loss_weight", "weight"])
def test_a_turn_may_carry_the_weight_of_its_loss(key: str) -> None:
    messages = read([HI | {key: 0.0}, HELLO | {key: 0.5}, HI, HELLO]).messages
    assert [message.weight for message in messages] == [0.0, 0.5, None, None]


def test_parts_hold_text_and_images_in_their_order() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": "http://x/a.png"}},
        {"type": "image", "image": "b.png"},
        {"type": "text", "text": "which is older?"},
    ]
    example = read([{"role": "user", "content": parts}, HELLO])
    assert example.messages[0].content == "<image><image>which is older?"
    assert example.images == ("http://x/a.png", "b.png")


def test_a_bare_image_part_is_the_place_of_the_records_own_image() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
    example = read([{"role": "user", "content": parts}, HELLO], images=["a.png"])
    assert (example.messages[0].content, example.images) == ("<image>what is it?", ("a.png",))


def test_parts_padded_with_nulls_by_parquet_are_read() -> None:
    parts = [
        {"type": "text", "text": "look", "value": None, "image_url": None},
        {"type": "image_url", "text": None, "value": None, "image_url": {"url": "a.png"}},
    ]
    turns = [{"role": "user", "content": parts, "tool_calls": None, "name": None}, HELLO]
    assert read(turns).messages[0].content == "look<image>"


def test_a_pretrain_turn_is_text_without_a_question() -> None:
    example = read([{"role": "pretrain", "content": [{"type": "text", "text": "Once upon"}]}])
    assert example.messages == (Message("assistant", "Once upon"),)


def test_the_system_column_opens_the_conversation_unless_it_has_a_system_turn() -> None:
    system = {"role": "system", "content": "be kind"}
    expected = ["system", "user", "assistant"]
    for turns, column in (
        ([HI, HELLO], "be kind"),
        ([system, HI, HELLO], "be kind"),
        ([system, HI, HELLO], ""),
    ):
        assert [message.role for message in read(turns, system=column).messages] == expected
    with pytest.raises(DataError, match="two system prompts"):
        read([system, HI, HELLO], system="be brief")


def test_a_system_turn_without_text_is_left_out() -> None:
    assert len(read([{"role": "system", "content": ""}, HI, HELLO]).messages) == 2


@pytest.mark.parametrize(
    ("turns", "said"),
    [
        ([], "`messages` must be a list"),
        ("hi", "`messages` must be a list"),
        (["hi"], "message 0 is not an object with `role` and `content`"),
        ([{"role": "human", "content": "x"}], "the role 'human'; known roles: system, user, assistant, tool"),
        ([{"role": ["user"], "content": "x"}], r"the role \['user'\]"),
        ([HI, {"role": "pretrain", "content": "x"}], "the role 'pretrain'"),
        ([HI | {"content": " "}], r"message 0 \(user\) must have text as `content`, has ' '"),
        ([HI | {"content": None}], r"message 0 \(user\) must have text"),
        ([HI | {"content": [{"type": "text"}]}], r"message 0 \(user\) must have text as `content`: part 0"),
        ([HI | {"content": [{"type": "audio", "audio": "x"}]}], "read are text, image and image_url"),
        ([HI | {"content": [{"type": "reasoning", "value": "x"}]}], "part 0 is"),
        ([HI | {"content": [{"type": "image", "image": 3}]}], "must name an image by path"),
        ([HI | {"name": "Bob"}, HELLO], "message 0 has name, which would be ignored; read are role"),
        ([HI | {"tool_calls": [CALL]}, HELLO], "message 0 has tool_calls, which would be ignored"),
        ([HI | {"loss_weight": -1}, HELLO], "loss_weight must be a number from 0"),
        ([HI | {"loss_weight": True}, HELLO], "loss_weight must be a number from 0"),
        ([HI | {"weight": float("nan")}, HELLO], "weight must be a number from 0"),
        ([HI], "an assistant turn last, has user"),
        ([HELLO], "needs a user turn"),
        ([HI, {"role": "tool", "content": "x"}, HELLO], r"message 1 \(tool\) answers no assistant turn"),
        ([HI, HELLO | {"tool_calls": "x"}], "tool_calls must be a list of objects"),
        ([HI, HELLO | {"tool_calls": [{"function": {}}]}], "a function call must be {name, arguments}"),
        ([HI, HELLO | {"tool_calls": [{"name": "f", "arguments": "{"}]}], "the arguments of f is not JSON"),
        ([HI, HELLO | {"reasoning_content": ["x"]}], "reasoning_content must be text"),
        ([{"from": "human", "value": "x"}, {"from": "function_call", "value": "{"}], "is not JSON"),
        ([{"from": "human", "value": "x"}, {"from": "function_call", "value": "[]"}], "an empty list"),
        ([{"role": "system", "content": None}], "has no turn with text"),
        ([HI | {"content": "<image>?"}, HELLO], "1 <image> marks for 0 images"),
    ],
)
def test_what_cannot_be_read_is_named_by_place(turns: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"rows.jsonl:7: .*{said}"):
        read(turns)


def test_each_image_needs_one_mark() -> None:
    with pytest.raises(DataError, match="0 <image> marks for 1 images"):
        read([HI, HELLO], images="a.png")


def tried(read: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What `read` returns, or the DataError it raises."""
    try:
        return read(*args, **named)
    except DataError as error:
        return error


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "text", "x", "f", "<image>"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "value", "text", "name", "arguments", "function", "id", "image"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)
keys = st.sampled_from(
    ["role", "content", "from", "value", "tool_calls", "loss_weight", "reasoning", "tool_call_id"]
)
roles = st.sampled_from(["system", "user", "assistant", "tool", "function", "human", "gpt", "function_call"])
turns = st.fixed_dictionaries({"role": roles, "content": values}) | st.dictionaries(keys, values | roles)


@given(st.lists(turns, max_size=4) | values, values)
def test_any_turns_are_read_or_refused_with_their_place(found: Any, column: Any) -> None:
    example = tried(read, found, images=column, tools=column)
    if isinstance(example, DataError):
        assert str(example).startswith("rows.jsonl:7: ")
    else:
        assert sum(message.content.count("<image>") for message in example.messages) == len(example.images)
        assert example.messages[-1].role == "assistant"
