"""Bodies as callers send them: each refusal names a field of theirs, and costs no more than one field."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from seektune.serving.body import MAX_ITEMS, read
from seektune.serving.protocol import ChatBody, TextBody
from seektune.serving.refusal import Refusal

MANY = 100_000


def refused(**fields: Any) -> Refusal:
    tree = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | fields
    if "prompt" in fields:
        del tree["messages"]
    with pytest.raises(Refusal) as caught:
        read(TextBody if "prompt" in fields else ChatBody, tree)
    return caught.value


def said(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"stop": 5}, "stop", "should be a valid string or a valid list"),
        ({"stop": ["a", 1]}, "stop.1", "should be a valid string"),
        ({"prompt": ["a", 1]}, "prompt.1", "should be a valid string"),
        ({"prompt": [1] * 9 + ["a"]}, "prompt.9", "should be a valid integer"),
        ({"prompt": [[1, "x"]]}, "prompt.0.1", "should be a valid integer"),
        ({"prompt": 3}, "prompt", "should be a valid string or a valid list"),
        ({"n": "2"}, "n", "should be a valid integer"),
        ({"messages": [3]}, "messages.0", "must be a JSON object"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages.0.content", "a valid string or"),
        ({"messages": said({"type": "image_url"})}, "messages.0.content.0.type", "should be 'text'"),
        ({"messages": said({"type": "text", "text": 3})}, "messages.0.content.0.text", "a valid string"),
        ({"stream_options": 3}, "stream_options", "should be"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_named_where_the_caller_wrote_it(fields: Any, param: str, reason: str) -> None:
    refusal = refused(**fields)
    assert refusal.param == param
    assert reason in str(refusal)


def test_an_image_is_refused_by_its_name() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    refusal = refused(messages=said({"type": "text", "text": "What is this?"}, image))
    assert (refusal.param, refusal.code) == ("messages.0.content.1.image_url", "unsupported_field")


def test_null_and_what_changes_no_answer_are_passed_over_in_parts_too() -> None:
    part = {"type": "text", "text": "a", "image_url": None, "cache_control": {"type": "ephemeral"}}
    assert read(ChatBody, {"model": "m", "messages": said(part)}).conversation[0].content == "a"


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [{}] * MANY},
        {"prompt": [[{}]] * MANY},
        {"prompt": [1] * MANY + ["a"]},
        {"prompt": "x", "stop": [1] * MANY},
    ],
)
def test_the_first_wrong_item_ends_a_list(fields: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        TextBody.model_validate({"model": "m"} | fields)
    assert caught.value.error_count() <= 4
    assert len(str(refused(**fields))) < 200


@pytest.mark.parametrize("field", ["messages", "messages.0.content"])
def test_a_list_of_objects_has_an_end(field: str) -> None:
    items: list[Any] = [{}] * (MAX_ITEMS + 1)
    refusal = refused(messages=items if field == "messages" else said(*items))
    assert (refusal.param, str(refusal)) == (field, f"{field} has 4,097 entries: at most 4,096 are taken")
