"""Turns of a conversation become messages: ShareGPT's from/value and OpenAI's role/content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from seektune.data.formats.fields import (
    Fields,
    image_path,
    images_of,
    json_text,
    json_value,
    listed,
    shown,
    tools_of,
)
from seektune.types import Example, Message, ToolCall

MARK = "<image>"
"""Stands in a text where an image goes."""

OPENAI: Mapping[str, str] = MappingProxyType(
    {
        "system": "system",
        "user": "user",
        "assistant": "assistant",
        "tool": "tool",
        "developer": "system",
        "function": "tool",
    }
)
SHAREGPT: Mapping[str, str] = MappingProxyType(
    {
        "human": "user",
        "gpt": "assistant",
        "system": "system",
        "function_call": "function_call",
        "observation": "tool",
        "user": "user",
        "assistant": "assistant",
        "chatgpt": "assistant",
        "tool": "tool",
    }
)
TAGGED_ROLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "user_tag": ("human", "user"),
        "assistant_tag": ("gpt", "assistant"),
        "observation_tag": ("observation", "tool"),
        "function_tag": ("function_call", "function_call"),
        "system_tag": ("system", "system"),
    }
)
"""LLaMA-Factory's name of a tag → its value where none is given, and the role it stands for."""

MOST_WEIGHT = 1e6
TAGS = ("role_tag", "content_tag", *TAGGED_ROLES)
REASONING_KEYS = ("reasoning_content", "reasoning")
READ_KEYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "assistant": ("loss_weight", "weight", "tool_calls", "function_call", *REASONING_KEYS),
        "tool": ("loss_weight", "weight", "tool_call_id", "name"),
    }
)
"""What is read of a turn beside its role and content."""


def conversation(fields: Fields, tags: Mapping[str, str]) -> Example:
    """The example of a record whose `messages` are a list of turns; `tags` are LLaMA-Factory's, or empty."""
    images = images_of(fields)
    messages = turns_of(fields, "messages", tags, images)
    if messages[0].role == "pretrain":
        messages = (Message("assistant", messages[0].content, weight=messages[0].weight),)
    else:
        messages = with_system(fields, messages)
        roles = [message.role for message in messages]
        if roles[-1] != "assistant" or "user" not in roles:
            raise fields.wrong(f"needs a user turn and an assistant turn last, has {listed(roles)}")
    check_marks(fields, messages, images)
    return Example(messages, fields.row_id, tools=tools_of(fields), images=tuple(images))


def turns_of(fields: Fields, field: str, tags: Mapping[str, str], images: list[str]) -> tuple[Message, ...]:
    """The messages of a list of turns; images found in their parts are appended to `images`.

    A system turn without text is left out. Raises DataError for anything in a turn that would not be read.
    """
    turns, name = fields.need(field), fields.column(field)
    if not isinstance(turns, list) or not turns:
        raise fields.wrong(f"`{name}` must be a list of {{role, content}} objects")
    role_key, content_key, roles = dialect(turns[0], tags)
    if any(isinstance(turn, dict) and turn.get("tool_call_id") for turn in turns):
        turns = _in_call_order(fields, turns)
    found: list[Message] = []
    for index, turn in enumerate(turns):
        place = f"message {index}" if field == "messages" else f"message {index} of `{name}`"
        if not isinstance(turn, dict):
            raise fields.wrong(f"{place} is not an object with `{role_key}` and `{content_key}`")
        tag, content = turn.get(role_key), turn.get(content_key)
        role = roles.get(tag) if isinstance(tag, str) else None
        if role is None:
            if tag != "pretrain" or len(turns) > 1:
                raise fields.wrong(f"{place} has the role {shown(tag)}; known roles: {', '.join(roles)}")
            role = "pretrain"
        if len(turn) > 2:
            _check_keys(fields, place, turn, (role_key, content_key), role)
        if role == "tool" and (not found or found[-1].role not in ("assistant", "tool")):
            raise fields.wrong(f"{place} ({tag}) answers no assistant turn")
        if role != "system" or content:
            found.append(_message(fields, place, role, content, turn, images))
    if not found:
        raise fields.wrong(f"`{name}` has no turn with text")
    return tuple(found)


def dialect(turn: Any, tags: Mapping[str, str]) -> tuple[str, str, Mapping[str, str]]:
    """Key of the role, key of the content, and the roles by name: as `tags` say, else as the turn's keys."""
    if tags:
        named = {tags.get(tag, usual): role for tag, (usual, role) in TAGGED_ROLES.items()}
        return tags.get("role_tag", "from"), tags.get("content_tag", "value"), named
    if isinstance(turn, dict) and "from" in turn and "role" not in turn:
        return "from", "value", SHAREGPT
    return "role", "content", OPENAI


def with_system(fields: Fields, messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The messages opened by the record's own `system` column, where it has one."""
    system = fields.maybe("system")
    if not system:
        return messages
    if messages and messages[0].role == "system":
        if messages[0].content != system:
            raise fields.wrong(f"`{fields.column('system')}` and the first turn are two system prompts")
        return messages
    return (Message("system", system), *messages)


def check_marks(fields: Fields, messages: Sequence[Message], images: Sequence[str]) -> None:
    """DataError unless the messages hold one `<image>` for each image."""
    marks = sum(message.content.count(MARK) for message in messages)
    if marks != len(images):
        raise fields.wrong(f"{marks} {MARK} marks for {len(images)} images: each image needs one mark")


def reasoned(reasoning: str, answer: str) -> str:
    """An answer with its reasoning in front."""
    think = "<think>\n" + reasoning.strip("\n") + "\n</think>"
    return f"{think}\n\n{answer}" if answer else think


def _message(
    fields: Fields, place: str, role: str, content: Any, turn: dict[str, Any], images: list[str]
) -> Message:
    calls: tuple[ToolCall, ...] = ()
    if role == "function_call":
        role, calls, content = "assistant", _calls(fields, place, content), ""
    if isinstance(content, list):
        content, calls = _parts(fields, f"{place} ({role})", role, content, images)
    weight = None
    if len(turn) > 2:
        weight = _weight(fields, place, turn)
        if role == "assistant":
            calls += _openai_calls(fields, place, turn)
            content = _after_reasoning(fields, place, turn, content)
            content = "" if content is None and calls else content
    if not isinstance(content, str) or not (calls or content.strip()):
        raise fields.wrong(f"{place} ({role}) must have text as `content`, has {shown(content)}")
    return Message(role, content, calls, weight)


def _check_keys(fields: Fields, place: str, turn: dict[str, Any], named: tuple[str, str], role: str) -> None:
    reads = READ_KEYS.get(role, ("loss_weight", "weight"))
    unread = [
        key
        for key, value in turn.items()
        if key not in named and key not in reads and value is not None and value not in ("", [])
    ]
    if unread:
        also = f"{', '.join(named)} and {', '.join(reads)}"
        raise fields.wrong(f"{place} has {listed(sorted(unread))}, which would be ignored; read are {also}")


def _weight(fields: Fields, place: str, turn: dict[str, Any]) -> float | None:
    key = "loss_weight" if turn.get("loss_weight") is not None else "weight"
    value = turn.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MOST_WEIGHT:
        raise fields.wrong(f"{place}: {key} must be a number from 0 to {MOST_WEIGHT:g}, is {shown(value)}")
    return float(value)


def _after_reasoning(fields: Fields, place: str, turn: dict[str, Any], content: Any) -> Any:
    key = next((key for key in REASONING_KEYS if turn.get(key)), None)
    if key is None:
        return content
    if not isinstance(turn[key], str) or not isinstance(content, str | None):
        raise fields.wrong(f"{place}: {key} must be text, as its content must, is {shown(turn[key])}")
    return reasoned(turn[key], content or "")


def _parts(
    fields: Fields, place: str, role: str, parts: list[Any], images: list[str]
) -> tuple[str, tuple[ToolCall, ...]]:
    """Text and calls of a list of parts: OpenAI's, and LLaMA-Factory's {type, value}."""
    texts: list[str] = []
    reasoning: list[str] = []
    calls: tuple[ToolCall, ...] = ()
    for index, part in enumerate(parts):
        kind = str(part.get("type")) if isinstance(part, dict) else None
        value = (
            next((part[key] for key in ("value", kind) if part.get(key) is not None), None) if kind else part
        )
        if kind in ("image", "image_url"):
            path = value or part.get("url") or part.get("path")
            if path:  # a bare {"type": "image"} is the place of one of the record's own images
                images.append(image_path(fields, f"{place} part {index}", path))
            texts.append(MARK)
        elif kind == "tool_call" and role == "assistant":
            calls += _calls(fields, f"{place} part {index}", value)
        elif kind in ("text", None) and isinstance(value, str):
            texts.append(value)
        elif kind in ("reasoning", "thinking") and role == "assistant" and isinstance(value, str):
            reasoning.append(value)
        else:
            read = "read are text, image and image_url, and an assistant's reasoning and tool_call"
            raise fields.wrong(f"{place} must have text as `content`: part {index} is {shown(part)}; {read}")
    text = "".join(texts)
    return (reasoned("\n".join(reasoning), text) if reasoning else text), calls


def _openai_calls(fields: Fields, place: str, turn: dict[str, Any]) -> tuple[ToolCall, ...]:
    calls = turn.get("tool_calls") or []
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise fields.wrong(f"{place}: tool_calls must be a list of objects, is {shown(calls)}")
    named = [call.get("function", call) for call in calls]
    if turn.get("function_call"):  # OpenAI's older name for a single call
        named.append(turn["function_call"])
    return _calls(fields, place, named) if named else ()


def _calls(fields: Fields, place: str, value: Any) -> tuple[ToolCall, ...]:
    """Calls from JSON text or objects, one or a list of them."""
    if isinstance(value, str):
        value = json_value(fields, f"{place}: a function call", value)
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise fields.wrong(f"{place}: a function call must be {{name, arguments}}, is an empty list")
    return tuple(_call(fields, place, call) for call in calls)


def _call(fields: Fields, place: str, call: Any) -> ToolCall:
    name = call.get("name") if isinstance(call, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise fields.wrong(f"{place}: a function call must be {{name, arguments}}, is {shown(call)}")
    arguments = call.get("arguments", call.get("parameters"))
    if isinstance(arguments, str) and arguments.strip():
        json_value(fields, f"{place}: the arguments of {name}", arguments)
        return ToolCall(name, arguments)
    return ToolCall(name, json_text(fields, f"{place}: the arguments of {name}", arguments or {}))


def _in_call_order(fields: Fields, turns: list[Any]) -> list[Any]:
    """The turns with each run of tool answers in the order of the calls their `tool_call_id` names.

    Templates write answers by position, so an answer that came early would stand under the wrong call.
    """
    ordered: list[Any] = []
    asked: list[Any] = []
    run = 0
    for turn in turns:
        called = turn.get("tool_call_id") if isinstance(turn, dict) else None
        if called is None:
            calls = turn.get("tool_calls") if isinstance(turn, dict) else None
            asked = (
                [call.get("id") for call in calls if isinstance(call, dict)]
                if isinstance(calls, list)
                else []
            )
            run = len(ordered) + 1
            ordered.append(turn)
        elif called not in asked:
            raise fields.wrong(f"tool_call_id {shown(called)} answers none of the calls {shown(asked)}")
        else:
            ordered.append(turn)
            ordered[run:] = sorted(ordered[run:], key=lambda answer: asked.index(answer["tool_call_id"]))
    return ordered
