"""One instruction and its answer, an answer with its reasoning, or plain text."""

from __future__ import annotations

from typing import Any

from seektune.data.formats.conversations import MARK, check_marks, reasoned, with_system
from seektune.data.formats.fields import Fields, images_of, shown, tools_of
from seektune.types import Example, Message


def instruction(fields: Fields) -> Example:
    """Alpaca's columns: history, then instruction and input as the user turn, then the output."""
    messages, images = prompt_of(fields)
    messages = (*messages, Message("assistant", fields.text("output")))
    return Example(messages, fields.row_id, tools=tools_of(fields), images=images)


def reasoning(fields: Fields) -> Example:
    """A question, the reasoning and the answer; the options of a question, if any, are listed below it."""
    answer = reasoned(fields.text("reasoning"), fields.text("answer"))
    images = images_of(fields)
    text = _marked("\n".join([fields.text("question"), *_listed(fields)]), images)
    messages = with_system(fields, (Message("user", text), Message("assistant", answer)))
    check_marks(fields, messages, images)
    return Example(messages, fields.row_id, images=tuple(images))


def plain(fields: Fields) -> Example:
    """Text without a question: one assistant message and no user turn."""
    return Example((Message("assistant", fields.text("text")),), fields.row_id)


def extracted(fields: Fields) -> Example:
    """A question and its answer taken from a document, or the document as plain text."""
    if not fields.has("question"):
        return plain(fields)
    messages = (Message("user", fields.text("question")), Message("assistant", fields.text("answer")))
    return Example(messages, fields.row_id)


def prompt_of(fields: Fields) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """System prompt, history and user turn of Alpaca's columns, and the images; no mark: in front."""
    images = images_of(fields)
    parts = [part for part in (fields.maybe("instruction"), fields.maybe("input")) if part]
    text = "\n".join(parts) if parts or images else fields.text("instruction")
    history = _history(fields)
    if not any(MARK in message.content for message in history):
        text = _marked(text, images)
    messages = with_system(fields, (*history, Message("user", text)))
    check_marks(fields, messages, images)
    return messages, tuple(images)


def _history(fields: Fields) -> tuple[Message, ...]:
    """Earlier turns as pairs [question, answer]."""
    pairs = fields.get("history") or []
    name = fields.column("history")
    if not isinstance(pairs, list):
        raise fields.wrong(f"`{name}` must be a list of [question, answer] pairs, is {shown(pairs)}")
    messages: list[Message] = []
    for pair in pairs:
        texts: list[Any] = pair if isinstance(pair, list) and len(pair) == 2 else [None]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise fields.wrong(f"`{name}` must hold [question, answer] pairs of text, has {shown(pair)}")
        messages += [Message("user", texts[0]), Message("assistant", texts[1])]
    return tuple(messages)


def _listed(fields: Fields) -> list[str]:
    options = fields.get("options")
    if options is None or fields.column("question") == "Question":  # HuatuoGPT-o1's rewritten open question
        return []
    if not isinstance(options, dict):
        raise fields.wrong(f"`{fields.column('options')}` must be an object of options, is {shown(options)}")
    return [
        f"{key}. {fields.plain(f'option {key}', text)}" for key, text in options.items() if text is not None
    ]


def _marked(text: str, images: list[str]) -> str:
    return f"{MARK * len(images)}\n{text}".rstrip("\n") if images and MARK not in text else text
