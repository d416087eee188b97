"""The chat template of every DeepSeek generation, as data, and how each declares its tools.

The templates write what the published ones write for alternating turns. Where a published template loses
its place in a second round of tool calls (R1's), ours repeats the first round's form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from seektune.errors import DataError

_SYSTEM_FIRST = (
    "{{ bos_token }}{{ messages | selectattr('role', 'equalto', 'system')"
    " | map(attribute='content') | join('\n\n') }}"
)

_NO_TOOLS = (
    "{% if message.role == 'tool' or message.tool_calls %}"
    "{{ raise_exception('this generation has no form for tool calls') }}{% endif %}"
)

_V2 = (
    "{{ bos_token }}{% for message in messages %}" + _NO_TOOLS + "{% if message.role == 'user' %}"
    "{{ 'User: ' + message.content + '\n\n' }}"
    "{% elif message.role == 'assistant' %}{{ 'Assistant: ' + message.content + eos_token }}"
    "{% else %}{{ message.content + '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def _v3(answer: str, between_outputs: str, prompt: str) -> str:
    """V3 and R1: `answer` is the Jinja expression of a turn's text, `prompt` the generation prompt."""
    return _SYSTEM_FIRST + (
        "{% set ns = namespace(outputs=false) %}{% for message in messages %}"
        "{% if message.role == 'user' %}{{ '<｜User｜>' + message.content }}{% set ns.outputs = false %}"
        "{% elif message.role == 'tool' %}"
        "{{ '" + between_outputs + "' if ns.outputs else '<｜tool▁outputs▁begin｜>' }}"
        "{{ '<｜tool▁output▁begin｜>' + message.content + '<｜tool▁output▁end｜>' }}"
        "{% set ns.outputs = true %}"
        "{% elif message.role == 'assistant' %}"
        "{{ '<｜tool▁outputs▁end｜>' + message.content if ns.outputs else '<｜Assistant｜>' + "
        + answer
        + " }}"
        "{% for call in message.tool_calls %}"
        "{{ '<｜tool▁calls▁begin｜>' if loop.first else '\n' }}"
        "{{ '<｜tool▁call▁begin｜>function<｜tool▁sep｜>' + call.function.name }}"
        "{{ '\n```json\n' + call.function.arguments + '\n```<｜tool▁call▁end｜>' }}"
        "{{ '<｜tool▁calls▁end｜>' if loop.last else '' }}"
        "{% endfor %}{{ eos_token }}{% set ns.outputs = false %}{% endif %}{% endfor %}"
        "{% if ns.outputs %}<｜tool▁outputs▁end｜>{% elif add_generation_prompt %}" + prompt + "{% endif %}"
    )


_V3 = _v3("message.content", "\n", "<｜Assistant｜>")
_R1 = _v3("message.content.split('</think>')[-1]", "", "{{ '<｜Assistant｜><think>\n' }}")

_V31 = _SYSTEM_FIRST + (
    "{% set think = thinking | default(enable_thinking | default(false)) %}"
    "{% set ns = namespace(outputs=false) %}"
    "{% for message in messages %}"
    "{% if message.role == 'user' %}{{ '<｜User｜>' + message.content }}{% set ns.outputs = false %}"
    "{% elif message.role == 'tool' %}"
    "{{ '<｜tool▁output▁begin｜>' + message.content + '<｜tool▁output▁end｜>' }}{% set ns.outputs = true %}"
    "{% elif message.role == 'assistant' %}"
    "{{ message.content if ns.outputs else "
    "'<｜Assistant｜></think>' + message.content.split('</think>', 1)[-1] }}"
    "{% for call in message.tool_calls %}{{ '<｜tool▁calls▁begin｜>' if loop.first else '' }}"
    "{{ '<｜tool▁call▁begin｜>' + call.function.name + '<｜tool▁sep｜>' }}"
    "{{ call.function.arguments + '<｜tool▁call▁end｜>' }}{{ '<｜tool▁calls▁end｜>' if loop.last else '' }}"
    "{% endfor %}{{ eos_token }}{% set ns.outputs = false %}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt and not ns.outputs %}"
    "<｜Assistant｜>{{ '<think>' if think else '</think>' }}{% endif %}"
)

# Upstream these two have Python encoders: plain chat as V3.1 without thinking, tools in a form of their own.
_V32 = _V31.replace("{% for message in messages %}", "{% for message in messages %}" + _NO_TOOLS, 1)

_VL = (
    "{{ bos_token }}{% for message in messages %}" + _NO_TOOLS + "{% if message.role == 'user' %}"
    "{{ '<|User|>: ' + message.content + '\n\n' }}"
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
    "{% for message in messages %}" + _NO_TOOLS + "{% if message.role == 'user' %}"
    "{{ '### Instruction:\n' + message.content + '\n' }}"
    "{% elif message.role == 'assistant' %}{{ '### Response:\n' + message.content + '\n<|EOT|>\n' }}"
    "{% else %}{{ message.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)

TEMPLATES: Mapping[str, str] = MappingProxyType(
    {
        "deepseek_v2": _V2,  # also DeepSeek-LLM and MoE
        "deepseek_v3": _V3,
        "deepseek_r1": _R1,  # also its distills
        "deepseek_v31": _V31,
        "deepseek_v32": _V32,  # also V4
        "deepseek_vl": _VL,
        "deepseek_coder": _CODER,  # version 1
    }
)
"""Jinja text by name: what each generation's published template makes of a conversation."""

_JSON_CALL = "function<｜tool▁sep｜>tool_call_name\n```json\ntool_call_arguments\n```<｜tool▁call▁end｜>"
_TOOL_FORMS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "deepseek_v3": (_JSON_CALL, "on new lines"),
        "deepseek_r1": (_JSON_CALL, "on new lines"),
        "deepseek_v31": (
            "tool_call_name<｜tool▁sep｜>tool_call_arguments<｜tool▁call▁end｜>",
            "directly without separators or spaces",
        ),
    }
)  # the form of one call, and how several follow each other


def declares_tools(name: str) -> bool:
    """Whether the generation `name` has a way to tell the model which tools there are."""
    return name in _TOOL_FORMS


def declaration(name: str, tools: str) -> str:
    """What stands two newlines after the system prompt when there are `tools` (see `schemas`).

    The text is V3.1's published one; V3 and R1 publish none, so theirs is the same around their own call
    form. Raises KeyError for a generation that `declares_tools` denies.
    """
    form, chained = _TOOL_FORMS[name]
    entries = "".join(
        f"\n### {tool['name']}\nDescription: {tool.get('description', '')}\n\n"
        f"Parameters: {json.dumps(tool.get('parameters', {}), ensure_ascii=False)}\n"
        for tool in (schema["function"] for schema in schemas(tools))
    )
    return (
        f"## Tools\nYou have access to the following tools:\n{entries}\n"
        "IMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{form}"
        "{{additional_tool_calls}}<｜tool▁calls▁end｜>\n\nWhere:\n\n"
        "- `tool_call_name` must be an exact match to one of the available tools\n"
        "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
        f"- For multiple tool calls, chain them {chained}\n"
    )


@lru_cache(maxsize=64)
def schemas(tools: str) -> tuple[dict[str, Any], ...]:
    """The function schemas of a JSON list, each as {"type": "function", "function": {…}}; or DataError."""
    found = parsed(tools, "`tools`")
    entries = found if isinstance(found, list) else [found]
    wrapped = [
        entry if isinstance(entry, dict) and "function" in entry else {"type": "function", "function": entry}
        for entry in entries
    ]
    if any(not isinstance(entry["function"], dict) or "name" not in entry["function"] for entry in wrapped):
        raise DataError("`tools` must be a JSON list of function schemas, each with a `name`")
    return tuple(wrapped)


def parsed(text: str, what: str) -> Any:
    """What JSON text says; DataError, naming `what` it is, where it is none or says a lone surrogate."""
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} must be JSON: {error}") from None
    return found
