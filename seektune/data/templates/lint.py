"""What is suspicious about a tokenised row, and whether a tokenizer's template is unlike its generation's."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from seektune.data.templates.render import pieces, render, render_turn
from seektune.data.templates.skeletons import PROBE
from seektune.errors import DataError
from seektune.types import IGNORE, Chat, Example, Message, Sample

NAMES = (
    "doubled_bos",
    "missing_eos",
    "thinking_lost",
    "answer_truncated",
    "nothing_to_train",
    "control_token_in_text",
)

_CONTROL = re.compile(r"<[^<>]+>|\[[^\[\]]+\]")
_THINK = frozenset({"<think>", "</think>"})
_TAIL = 16  # tokens that are sure to hold the last characters of an answer
_QUESTION, _REASONED = Message("user", "u"), Message("assistant", f"<think>\n{PROBE}\n</think>\n\nb")
_CONVERSATIONS = {
    "a question": (_QUESTION,),
    "a system prompt": (Message("system", "s"), _QUESTION),
    "a second question": (_QUESTION, Message("assistant", "a"), Message("user", "v")),
    "an answer with reasoning": (_QUESTION, _REASONED, Message("user", "v")),
}


def lint(chat: Chat, example: Example, sample: Sample) -> tuple[str, ...]:
    """The `NAMES` of what is wrong with one row; `linter` for many."""
    return linter(chat)(example, sample)


def linter(chat: Chat) -> Callable[[Example, Sample], tuple[str, ...]]:
    """`lint` for one model, a few microseconds a row."""
    bos, eos = chat.tokenizer.bos_token_id, chat.tokenizer.eos_token_id
    ending = _ending(chat)
    closing = chat.tokenizer.encode("</think>", add_special_tokens=False)
    controls, forgets = _controls(chat.tokenizer), _forgets_reasoning(chat)

    def run(example: Example, sample: Sample) -> tuple[str, ...]:
        found = []
        inputs, targets = sample.input_ids, sample.targets
        if len(inputs) > 1 and inputs[0] == inputs[1] == bos:
            found.append("doubled_bos")
        trained = targets[-1] != IGNORE or bool((np.asarray(targets) != IGNORE).any())
        if not trained or (isinstance(sample.weight, float) and sample.weight == 0):
            found.append("nothing_to_train")
        elif targets[-1] not in (IGNORE, eos) and (name := _unfinished(chat, example, targets, ending)):
            found.append(name)
        if any("</think>" in message.content for message in example.messages) and _loses_thinking(
            example, targets, closing, forgets
        ):
            found.append("thinking_lost")
        if _has_control(example, controls):
            found.append("control_token_in_text")
        return tuple(found)

    return run


def template_differs(chat: Chat) -> str | None:
    """Where the tokenizer's own template and its generation's part ways: what each says; None if nowhere."""
    if not chat.tokenizer.chat_template:
        return None
    bare = copy.copy(chat.tokenizer)
    bare.chat_template = None
    published = SimpleNamespace(tokenizer=bare, template=chat.template)
    for what, messages in _CONVERSATIONS.items():
        own, known = (_said(side, messages) for side in (chat, published))
        if own != known:
            return f"for {what} the tokenizer's template says {own!r}, {chat.template} {known!r}"
    return None


def _said(chat: Chat, messages: Sequence[Message]) -> str:
    try:
        return render(chat, messages, add_generation_prompt=True)
    except DataError as error:
        return f"({error})"


def _ending(chat: Chat) -> str:
    """With which text a whole turn ends in this template."""
    try:
        _, completion = render_turn(chat, [_QUESTION, Message("assistant", PROBE)])
    except DataError:
        return str(chat.tokenizer.eos_token)
    return completion.rpartition(PROBE)[2]


def _unfinished(chat: Chat, example: Example, targets: Sequence[int] | Any, ending: str) -> str | None:
    """A row whose last token is no end of sequence: is its turn, or at least its answer, whole?"""
    tail = [int(target) for target in targets[-_TAIL - len(ending) :] if target != IGNORE]
    text = chat.tokenizer.decode(tail)
    if text.endswith(ending):
        return None
    final = example.messages[-1]
    answer = final.tool_calls[-1].arguments if final.tool_calls else final.content
    return "missing_eos" if text.rstrip().endswith(answer.rstrip()[-4:]) else "answer_truncated"


def _forgets_reasoning(chat: Chat) -> bool:
    """Whether the template drops the reasoning of turns that are history."""
    messages = (_QUESTION, _REASONED, Message("user", "v"), Message("assistant", "c"))
    try:
        return PROBE not in "".join(text for text, _ in pieces(chat, Example(messages, "lint")))
    except DataError:
        return True


def _loses_thinking(
    example: Example, targets: Sequence[int] | Any, closing: list[int], forgets: bool
) -> bool:
    *history, final = example.messages
    if forgets and any("</think>" in message.content for message in history if message.role == "assistant"):
        return True
    if "</think>" not in final.content or (final.weight is not None and not final.weight):
        return False
    found = np.asarray(targets).tolist()
    return not any(found[at : at + len(closing)] == closing for at in range(len(found)))


def _controls(tokenizer: Any) -> frozenset[str]:
    """Tokens of the tokenizer that stand for no text, as far as they look like it: in angles or brackets."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = {token.content for token in added} | set(tokenizer.all_special_tokens) | _THINK
    return frozenset(name for name in names if _CONTROL.fullmatch(name))


def _has_control(example: Example, controls: frozenset[str]) -> bool:
    for message in example.messages:
        texts = [message.content, *(call.arguments for call in message.tool_calls)]
        for text in texts:
            if "<" not in text and "[" not in text:
                continue
            expected = _THINK if message.role == "assistant" else ()
            found = {name for name in _CONTROL.findall(text) if name in controls and name not in expected}
            if found - ({"<image>"} if example.images else set()):
                return True
    return False
