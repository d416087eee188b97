"""Conversations as the text and the tokens of their chat template, with what of it is trained.

The tokenizer's own template wins when it carries one. A trained turn is what the model has to write: its
answer, whatever its template puts between generation prompt and answer, and the end-of-turn token.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from jinja2 import TemplateError

from seektune.data.templates.skeletons import PROBE, Piece, Skeletons
from seektune.data.templates.texts import TEMPLATES as TEMPLATES
from seektune.data.templates.texts import declaration, declares_tools, parsed, schemas
from seektune.data.templates.tokens import Encode, arrays_of, encoder, listed
from seektune.errors import DataError
from seektune.types import Chat, Example, Message, Sample

TrainTurns = Literal["all", "last"]

_KNOWS_TOOLS = re.compile(r"\btools\b")
_WANTS_OBJECTS = re.compile(
    r"arguments['\"\])]*\s*\|\s*tojson"
)  # such a template would quote JSON text again
_WORD = re.compile(r"\w+")
_MARKER = re.compile(r"<[^<>\s'\"]+>")


def render(
    chat: Chat,
    messages: Sequence[Message],
    add_generation_prompt: bool = False,
    thinking: bool = False,
    tools: str = "",
) -> str:
    """The conversation as text, BOS included: tokenise it *without* special tokens, or BOS doubles.

    `thinking` reaches templates that know it (V3.1). `tools`, a JSON list of function schemas, goes to
    templates that know tools, else into the system prompt in the generation's published words. Raises
    DataError when the template refuses the roles or there is no form for tools.
    """
    text = _template(chat)
    if tools and not _KNOWS_TOOLS.search(text):
        messages = _declared(chat, messages, tools)
    objects = _WANTS_OBJECTS.search(text) is not None
    try:
        rendered = chat.tokenizer.apply_chat_template(
            [_as_dict(message, objects) for message in messages],
            chat_template=None if chat.tokenizer.chat_template else text,
            tools=list(schemas(tools)) if tools and _KNOWS_TOOLS.search(text) else None,
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            thinking=thinking,
            enable_thinking=thinking,
        )
    except (TemplateError, TypeError) as error:  # TypeError: text joined to what is none
        roles = ", ".join(message.role for message in messages)
        raise DataError(f"the chat template cannot render the roles {roles}: {error}") from None
    return str(rendered)


def render_turn(chat: Chat, messages: Sequence[Message], tools: str = "") -> tuple[str, str]:
    """(prompt, completion): what the model is given, and what it is to write, end-of-turn token included.

    The prompt is exactly the generation prompt, so training sees what generation will. Where a template
    drops the reasoning of the final turn (R1, V3.1) or opens `<think>` in the generation prompt, that turn
    is written by hand: reasoning is kept, and an answer without any closes the block at once.
    """
    *history, final = messages
    thinking = "</think>" in final.content
    prompt = render(chat, history, True, thinking, tools)
    full = render(chat, messages, False, thinking, tools)
    ending = _after_probe(chat, history, Message("assistant", PROBE), tools)
    if full.startswith(prompt) and final.content.strip() in full[len(prompt) :]:
        completion = full[len(prompt) :]
        return prompt, completion.rstrip() if ending else completion + chat.tokenizer.eos_token
    if not prompt.rstrip().endswith("<think>"):
        raise DataError("the chat template does not continue its own generation prompt with the whole answer")
    calls = _after_probe(chat, history, replace(final, content=PROBE), tools) if final.tool_calls else ending
    return prompt, _continue_thinking(final.content) + calls + ("" if ending else chat.tokenizer.eos_token)


def prompt_ids(chat: Chat, messages: Sequence[Message], tools: str = "") -> list[int]:
    """Tokens of the conversation up to and including the generation prompt; BOS once."""
    return _encode(chat, render(chat, messages, add_generation_prompt=True, tools=tools))


def turn_ids(chat: Chat, messages: Sequence[Message], tools: str = "") -> tuple[list[int], list[int]]:
    """Tokens of `render_turn`; prompt + completion is the full row even if its text would merge across."""
    prompt, completion = render_turn(chat, messages, tools)
    ids, whole = _encode(chat, prompt), _encode(chat, prompt + completion)
    if whole[: len(ids)] == ids:
        return ids, whole[len(ids) :]
    return ids, _encode(chat, completion)


def pieces(chat: Chat, example: Example) -> list[Piece]:
    """The row's text in consecutive pieces, each with the index of the message it trains, or None.

    A history turn that the template shortens or moves once it is history (reasoning, in R1 and V3.1) trains
    nothing. A single assistant message is plain text: BOS, text, EOS. Raises DataError when there is no
    final assistant turn or the template leaves something out.
    """
    messages = example.messages
    _check_roles(messages)
    if len(messages) == 1:
        tokenizer = chat.tokenizer
        return [(tokenizer.bos_token or "", None), (messages[0].content + tokenizer.eos_token, 0)]
    prompt, completion = render_turn(chat, messages, example.tools)
    _check_complete(messages, prompt + completion)
    found: list[Piece] = []
    at = 0
    for index, message in enumerate(messages[:-1]):
        span = _span(chat, messages, index, prompt, example.tools) if message.role == "assistant" else None
        if span:
            found += [(prompt[at : span[0]], None), (prompt[slice(*span)], index)]
            at = span[1]
    return [*found, (prompt[at:], None), (completion, len(messages) - 1)]


def to_sample(chat: Chat, example: Example, train_turns: TrainTurns = "all") -> Sample:
    """Tokens and targets of one example; the final token is a target only, never an input.

    Every assistant turn is trained, or only the last; a message's own weight overrides. Raises DataError
    naming the row when there is no final assistant turn or the template cannot say it.
    """
    encode = encoder(_tokenizer(chat))
    [result] = _samples(chat, [example], lambda row: pieces(chat, row), encode, train_turns)
    if isinstance(result, DataError):
        raise result
    return listed(result)


def to_samples(
    chat: Chat, rows: Sequence[Example], *, train_turns: TrainTurns = "all"
) -> list[Sample | DataError]:
    """`to_sample` of every row, in order, much faster; a row's error stands in its place."""
    made = sampler(chat, train_turns)(rows)
    return [sample if isinstance(sample, DataError) else listed(sample) for sample in made]


def sampler(
    chat: Chat, train_turns: TrainTurns = "all"
) -> Callable[[Sequence[Example]], list[Sample | DataError]]:
    """`to_samples` that remembers from call to call what the template does to a shape of conversation.

    Its samples hold arrays.
    """
    encode = encoder(_tokenizer(chat), many=True)
    own = chat.tokenizer.chat_template  # ours look for nothing but the end of thinking in a text
    skeletons = Skeletons(lambda row: pieces(chat, row), set(_MARKER.findall(str(own or ""))))

    def run(rows: Sequence[Example]) -> list[Sample | DataError]:
        return _samples(chat, rows, skeletons.pieces, encode, train_turns)

    return run


def _samples(
    chat: Chat,
    rows: Sequence[Example],
    write: Callable[[Example], list[Piece]],
    encode: Encode,
    train_turns: TrainTurns,
) -> list[Sample | DataError]:
    written = [_written(chat, row, write, train_turns) for row in rows]
    ids = iter(encode([found[0] for found in written if not isinstance(found, DataError)]))
    return [
        found if isinstance(found, DataError) else arrays_of(row.row_id, next(ids), found[1])
        for row, found in zip(rows, written, strict=True)
    ]


def _written(
    chat: Chat, row: Example, write: Callable[[Example], list[Piece]], train_turns: TrainTurns
) -> tuple[list[str], list[float]] | DataError:
    """The texts of a row's pieces and the loss weight of each."""
    try:
        if row.tools and not _KNOWS_TOOLS.search(_template(chat)):
            row = replace(row, messages=tuple(_declared(chat, row.messages, row.tools)), tools="")
        found = [piece for piece in write(row) if piece[0]]
    except DataError as error:
        return DataError(f"{row.row_id}: {error}")
    return [text for text, _ in found], [_weight(row.messages, index, train_turns) for _, index in found]


def _weight(messages: Sequence[Message], index: int | None, train_turns: TrainTurns) -> float:
    if index is None:
        return 0.0
    own = messages[index].weight
    return float(train_turns == "all" or index == len(messages) - 1) if own is None else own


def _check_roles(messages: Sequence[Message]) -> None:
    if not messages or messages[-1].role != "assistant":
        raise DataError("the last message is not the assistant's: nothing to train on")
    for index, message in enumerate(messages):
        if message.weight and message.role != "assistant":
            raise DataError(
                f"message {index} ({message.role}) has the weight {message.weight}, "
                "but only assistant turns are trained: set it to 0 or leave it out"
            )


def _check_complete(messages: Sequence[Message], text: str) -> None:
    """Raise when the template wrote a row without one of its messages; reasoning in history may go."""
    folded = text.casefold()  # a template may quote a text or change its case, but not lose its words
    for index, message in enumerate(messages):
        words = [] if message.role == "assistant" else _WORD.findall(message.content.casefold())
        if any(word not in folded for word in words):
            raise DataError(f"the chat template leaves out message {index} ({message.role})")
        if any(call.name not in text for call in message.tool_calls):
            raise DataError(f"the chat template leaves out the tool calls of message {index}")


def _span(
    chat: Chat, messages: Sequence[Message], index: int, prompt: str, tools: str
) -> tuple[int, int] | None:
    """Where in `prompt` the assistant turn `index` stands as its model would have written it, if it does."""
    history, turn = messages[:index], messages[index]
    marked = render(chat, [*history, Message("assistant", PROBE)], tools=tools)
    head, _, tail = marked.partition(PROBE)
    opening = render(chat, history, True, tools=tools) if history else head
    done = render(chat, messages[: index + 1], tools=tools)
    start = len(opening) if head.startswith(opening) else len(head)
    end = len(done.rstrip()) if tail.strip() else len(done)
    written = prompt[start:end]
    whole = turn.content.strip() in written and all(call.name in written for call in turn.tool_calls)
    return (start, end) if whole and prompt.startswith(done[:end]) else None


def _after_probe(chat: Chat, history: Sequence[Message], turn: Message, tools: str) -> str:
    return render(chat, [*history, turn], tools=tools).rpartition(PROBE)[2].rstrip()


def _continue_thinking(answer: str) -> str:
    """What follows a generation prompt that has already opened `<think>`."""
    if "</think>" not in answer:
        return f"\n</think>\n\n{answer}"
    return answer.removeprefix("<think>").lstrip("\n")


def _declared(chat: Chat, messages: Sequence[Message], tools: str) -> list[Message]:
    """The messages with the tools in the system prompt, for templates that leave declaring to the caller."""
    if not declares_tools(chat.template):
        raise DataError(f"the chat template of {chat.template} has no form for tools")
    text = "\n\n" + declaration(chat.template, tools)
    found = list(messages)
    at = max((index for index, message in enumerate(found) if message.role == "system"), default=None)
    if at is None:
        return [Message("system", text), *found]
    found[at] = replace(found[at], content=found[at].content + text)
    return found


def _as_dict(message: Message, objects: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        found["tool_calls"] = [
            {
                "type": "function",
                "function": {
                    "name": call.name,
                    "arguments": parsed(call.arguments, "a tool call's `arguments`")
                    if objects
                    else call.arguments,
                },
            }
            for call in message.tool_calls
        ]
    return found


def _template(chat: Chat) -> str:
    own = _tokenizer(chat).chat_template
    return str(own) if own else TEMPLATES[chat.template]


def _tokenizer(chat: Chat) -> Any:
    if chat.tokenizer is None:
        raise DataError("this model has no tokenizer files, so no text can be prepared for it: add them")
    return chat.tokenizer


def _encode(chat: Chat, text: str) -> list[int]:
    return list(chat.tokenizer.encode(text, add_special_tokens=False))
