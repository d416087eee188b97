"""Preferred and rejected answers, and single answers with a verdict, become pairs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile

from seektune.data.formats.conversations import check_marks, turns_of, with_system
from seektune.data.formats.fields import Fields, images_of, listed, shown, tools_of
from seektune.data.formats.instructions import prompt_of
from seektune.types import Message, Pair

Turns = tuple[Message, ...]


def preference(fields: Fields, tags: Mapping[str, str]) -> Pair:
    """A prompt with its chosen and its rejected answer, in any of the shapes they come in.

    The prompt is a list of turns, a text, or what two whole conversations share; an answer is a text, a
    turn, or a list of turns. Raises DataError where the sides differ before their last turn, or not at all.
    """
    prompt, images = _prompt(fields, tags)
    shown_with: tuple[list[str], list[str]] = ([], [])  # images in the parts of either side
    chosen = _answer(fields, "chosen", tags, shown_with[0])
    rejected = _answer(fields, "rejected", tags, shown_with[1])
    if len(chosen) > 1 or len(rejected) > 1:
        prompt, chosen, rejected = _shared(fields, prompt, chosen, rejected)
        if shown_with[0] == shown_with[1]:
            shown_with[1].clear()
    if chosen[-1].content == rejected[-1].content and chosen[-1].tool_calls == rejected[-1].tool_calls:
        raise fields.wrong("the chosen and the rejected answer are the same")
    return _pair(fields, prompt, chosen[-1], rejected[-1], [*images, *shown_with[0], *shown_with[1]])


def rated(fields: Fields, tags: Mapping[str, str]) -> Pair:
    """One answer with a verdict (KTO): the pair has its chosen side if it is liked, else its rejected."""
    liked = verdict(fields)
    prompt, images = _prompt(fields, tags)
    messages = prompt
    if fields.has("output") and prompt and prompt[-1].role != "assistant":
        answer = _answer(fields, "output", tags, images)
        messages = answer if answer[: len(prompt)] == prompt else (*prompt, *answer)
    if len(messages) < 2 or messages[-1].role != "assistant":
        roles = listed(message.role for message in messages) or "no turn"
        raise fields.wrong(f"needs a user turn and an assistant turn last, has {roles}")
    *before, last = messages
    return _pair(fields, tuple(before), last if liked else None, None if liked else last, images)


def verdict(fields: Fields) -> bool:
    """Whether the answer is liked: true or false, 1 or 0, or those words."""
    value = fields.need("label")
    if isinstance(value, bool):
        return value
    said = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    word = str(value).strip().lower()
    if word not in said:
        raise fields.wrong(f"`{fields.column('label')}` must be true or false, is {shown(value)}")
    return said[word]


def _prompt(fields: Fields, tags: Mapping[str, str]) -> tuple[Turns, list[str]]:
    if fields.get("messages") is not None:
        images = images_of(fields)
        return turns_of(fields, "messages", tags, images), images
    if isinstance(fields.get("instruction"), list):
        images = images_of(fields)
        return turns_of(fields, "instruction", tags, images), images
    if fields.has("instruction") or fields.has("input"):
        messages, paths = prompt_of(fields)
        return messages, list(paths)
    return (), images_of(fields)


def _answer(fields: Fields, side: str, tags: Mapping[str, str], images: list[str]) -> Turns:
    value = fields.need(side)
    if isinstance(value, str):
        return (Message("assistant", fields.text(side)),)
    if isinstance(value, dict):
        fields = Fields(fields.row_id, {fields.column(side): [value]}, fields.columns)
    elif not isinstance(value, list):
        raise fields.wrong(f"`{fields.column(side)}` must be text, a turn or turns, is {shown(value)}")
    return turns_of(fields, side, tags, images)


def _shared(fields: Fields, prompt: Turns, chosen: Turns, rejected: Turns) -> tuple[Turns, Turns, Turns]:
    """The prompt that two whole conversations share, and their last turns."""
    pairs = zip(chosen, rejected, strict=False)
    shared = tuple(ours for ours, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    if len(chosen) != len(rejected) or len(shared) != len(chosen) - 1:
        raise fields.wrong("the chosen and the rejected conversation differ before their last turn")
    if shared[-1:] and prompt[-len(shared) :] == shared:  # the system turn stands in the prompt only
        return prompt, chosen[-1:], rejected[-1:]
    if chosen[0].role == "assistant":
        return (*prompt, *shared), chosen[-1:], rejected[-1:]
    if prompt[: len(shared)] != shared and any(message not in shared for message in prompt):
        raise fields.wrong("the chosen conversation does not continue the prompt")
    return shared, chosen[-1:], rejected[-1:]


def _pair(
    fields: Fields, prompt: Turns, chosen: Message | None, rejected: Message | None, images: list[str]
) -> Pair:
    prompt = with_system(fields, prompt)
    if not any(message.role == "user" for message in prompt):
        raise fields.wrong(
            "needs a prompt with a user turn: a column `conversations`, `messages` or `prompt`"
        )
    if prompt[-1].role == "assistant":
        raise fields.wrong("the prompt must not end with an assistant turn: which answer would be compared?")
    for answer in (chosen, rejected):
        if answer is not None and answer.role != "assistant":
            raise fields.wrong(f"the answer must be an assistant turn, is a {answer.role} turn")
    check_marks(fields, [*prompt, *(answer for answer in (chosen, rejected) if answer)], images)
    return Pair(prompt, chosen, rejected, fields.row_id, tools_of(fields), tuple(images))
