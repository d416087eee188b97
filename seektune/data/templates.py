"""Chat templates of every DeepSeek generation, and one conversation as tokens with its targets.

The tokenizer's own template wins when it carries one. Only the final assistant turn is trained: its answer,
whatever its template puts between prompt and answer, and the end-of-turn token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from jinja2 import TemplateError

from seektune.errors import DataError
from seektune.types import IGNORE, Chat, Example, Message, Sample

_SYSTEM_FIRST = (
    "{{ bos_token }}{{ messages | selectattr('role', 'equalto', 'system')"
    " | map(attribute='content') | join('\n\n') }}"
)

_V2 = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'user' %}{{ 'User: ' + message.content + '\n\n' }}"
    "{% elif message.role == 'assistant' %}{{ 'Assistant: ' + message.content + eos_token }}"
    "{% else %}{{ message.content + '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)

_V3 = _SYSTEM_FIRST + (
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{{ '<｜User｜>' + message.content }}"
    "{% elif message.role == 'assistant' %}{{ '<｜Assistant｜>' + message.content + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<｜Assistant｜>{% endif %}"
)

_R1 = _SYSTEM_FIRST + (
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{{ '<｜User｜>' + message.content }}"
    "{% elif message.role == 'assistant' %}"
    "{{ '<｜Assistant｜>' + message.content.split('</think>')[-1] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)

_V31 = _SYSTEM_FIRST + (
    "{% set think = thinking | default(enable_thinking | default(false)) %}"
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{{ '<｜User｜>' + message.content }}"
    "{% elif message.role == 'assistant' %}"
    "{{ '<｜Assistant｜></think>' + message.content.split('</think>', 1)[-1] + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<｜Assistant｜>{{ '<think>' if think else '</think>' }}{% endif %}"
)

_VL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'user' %}{{ '<|User|>: ' + message.content + '\n\n' }}"
    "{% elif message.role == 'assistant' %}{{ '<|Assistant|>: ' + message.content + eos_token + '\n\n' }}"
    "{% else %}{{ message.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|Assistant|>:{% endif %}"
)

_CODER = (
    "{{ bos_token }}{% if messages | selectattr('role', 'equalto', 'system') | list | length == 0 %}"
    "{{ 'You are an AI programming assistant, utilizing the Deepseek Coder model, developed by Deepseek "
    "Company, and you only answer questions related to computer science. For politically sensitive "
    "questions, security and privacy issues, and other non-computer science questions, you will refuse to "
    "answer\n' }}{% endif %}"
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{{ '### Instruction:\n' + message.content + '\n' }}"
    "{% elif message.role == 'assistant' %}{{ '### Response:\n' + message.content + '\n<|EOT|>\n' }}"
    "{% else %}{{ message.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)

TEMPLATES: Mapping[str, str] = MappingProxyType(
    {
        "deepseek_v2": _V2,  # also DeepSeek-LLM and MoE
        "deepseek_v3": _V3,
        "deepseek_r1": _R1,  # also its distills
        "deepseek_v31": _V31,  # also V3.2 and V4, whose plain chat is V3.1's without thinking
        "deepseek_vl": _VL,
        "deepseek_coder": _CODER,  # version 1
    }
)
"""Jinja text by name: what each generation's published template makes of system, user and assistant text."""

_PROBE = "\ue000"  # private use: no data and no template contains it


def render(
    chat: Chat, messages: Sequence[Message], add_generation_prompt: bool = False, thinking: bool = False
) -> str:
    """The conversation as text, BOS included: tokenise it *without* special tokens, or BOS doubles.

    `thinking` reaches templates that know it (V3.1). Raises DataError when the template refuses the roles.
    """
    if chat.tokenizer is None:
        raise DataError("this model has no tokenizer files, so no text can be prepared for it: add them")
    try:
        text = chat.tokenizer.apply_chat_template(
            [{"role": message.role, "content": message.content} for message in messages],
            chat_template=None if chat.tokenizer.chat_template else TEMPLATES[chat.template],
            add_generation_prompt=add_generation_prompt,
            tokenize=False,
            thinking=thinking,
            enable_thinking=thinking,
        )
    except TemplateError as error:
        roles = ", ".join(message.role for message in messages)
        raise DataError(f"the chat template cannot render the roles {roles}: {error}") from None
    return str(text)


def render_turn(chat: Chat, messages: Sequence[Message]) -> tuple[str, str]:
    """(prompt, completion): what the model is given, and what it is to write, end-of-turn token included.

    The prompt is exactly the generation prompt, so training sees what generation will. Where a template
    drops the reasoning of the final turn (R1, V3.1) or opens `<think>` in the generation prompt, that turn
    is written by hand: reasoning is kept, and an answer without any closes the block at once.
    """
    *history, final = messages
    thinking = "</think>" in final.content
    prompt = render(chat, history, add_generation_prompt=True, thinking=thinking)
    full = render(chat, messages, thinking=thinking)
    ending = render(chat, [*history, Message("assistant", _PROBE)]).rpartition(_PROBE)[2].rstrip()
    if full.startswith(prompt) and final.content.strip() in full[len(prompt) :]:
        completion = full[len(prompt) :]
        return prompt, completion.rstrip() if ending else completion + chat.tokenizer.eos_token
    if not prompt.rstrip().endswith("<think>"):
        raise DataError("the chat template does not continue its own generation prompt with the whole answer")
    return prompt, _continue_thinking(final.content) + (ending or chat.tokenizer.eos_token)


def prompt_ids(chat: Chat, messages: Sequence[Message]) -> list[int]:
    """Tokens of the conversation up to and including the generation prompt; BOS once."""
    return _encode(chat, render(chat, messages, add_generation_prompt=True))


def turn_ids(chat: Chat, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Tokens of `render_turn`; prompt + completion is the full row even if its text would merge across."""
    prompt, completion = render_turn(chat, messages)
    ids, whole = _encode(chat, prompt), _encode(chat, prompt + completion)
    if whole[: len(ids)] == ids:
        return ids, whole[len(ids) :]
    return ids, _encode(chat, completion)


def to_sample(chat: Chat, example: Example) -> Sample:
    """Tokens and targets of one example; the final token is a target only, never an input.

    Raises DataError naming the row when there is no final assistant turn or the template cannot say it.
    """
    if example.messages[-1].role != "assistant":
        raise DataError(f"{example.row_id}: the last message is not the assistant's: nothing to train on")
    try:
        prompt, completion = turn_ids(chat, example.messages)
    except DataError as error:
        raise DataError(f"{example.row_id}: {error}") from None
    inputs = (*prompt, *completion)[:-1]
    targets = (*[IGNORE] * len(prompt), *completion)[1:]
    return Sample(inputs, targets, example.row_id)


def _encode(chat: Chat, text: str) -> list[int]:
    return list(chat.tokenizer.encode(text, add_special_tokens=False))


def _continue_thinking(answer: str) -> str:
    """What follows a generation prompt that has already opened `<think>`."""
    if "</think>" not in answer:
        return f"\n</think>\n\n{answer}"
    return answer.removeprefix("<think>").lstrip("\n")
