"""Published templates, byte for byte; tools as each generation writes and declares them."""

from __future__ import annotations

import copy
import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seektune.data.templates.render import render
from seektune.data.templates.texts import TEMPLATES, declaration, declares_tools, schemas
from seektune.errors import DataError
from seektune.types import Message, ToolCall

B, E = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
CALLS, CALL, SEP = "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>"
CALL_END, CALLS_END = "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"
OUTS, OUT, OUT_END, OUTS_END = (
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "<｜tool▁outputs▁end｜>",
)
ONE, TWO = ToolCall("f", '{"a": 1}'), ToolCall("g", '{"b": "é"}')
JSON_ONE = f'{CALL}function{SEP}f\n```json\n{{"a": 1}}\n```{CALL_END}'
JSON_TWO = f'{CALL}function{SEP}g\n```json\n{{"b": "é"}}\n```{CALL_END}'
ROUNDS = [
    Message("system", "S"), Message("user", "u"), Message("assistant", "", (ONE,)), Message("tool", "1"),
    Message("assistant", "more", (ONE, TWO)), Message("tool", "2"), Message("tool", "3"),
    Message("assistant", "done\n"), Message("user", "v"),
]  # fmt: skip
SCHEMA = {"name": "f", "description": "测", "parameters": {"type": "object", "properties": {}}}


def published(name: str) -> str:
    """R1's own template, as its tokenizer carries it: TRL ships a copy."""
    spec = find_spec("trl")
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "chat_templates" / name).read_text(encoding="utf-8")


def said(tokenizer: Any, messages: list[Message], *, template: str = "", name: str = "", **how: Any) -> str:
    own = copy.copy(tokenizer)
    own.chat_template = template or None
    return render(SimpleNamespace(tokenizer=own, template=name), messages, **how)


words = st.text(max_size=20)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=3), words, st.booleans(), st.booleans())
@settings(deadline=None)
def test_r1_is_byte_for_byte_the_template_its_tokenizer_carries(
    tokenizer: Any, turns: list[tuple[str, str]], system: str, asks: bool, reasons: bool
) -> None:
    think = "<think>\nr\n</think>\n\n" if reasons else ""
    messages = [Message("system", system)] + [
        message
        for question, answer in turns
        for message in (Message("user", question), Message("assistant", think + answer))
    ]
    messages = messages[:-1] if asks else messages
    ours = said(tokenizer, messages, name="deepseek_r1", add_generation_prompt=asks)
    for file in ("deepseekv3.jinja", "deepseek_r1_distill.jinja"):  # TRL's names; the first is R1's
        theirs = said(tokenizer, messages, template=published(file), add_generation_prompt=asks)
        assert theirs == ours


@pytest.mark.parametrize("content", ["", "let me see"])
@pytest.mark.parametrize("last", [2, 3, 4])
def test_r1_writes_a_round_of_tool_calls_as_the_published_template(
    tokenizer: Any, content: str, last: int
) -> None:
    messages = [
        Message("system", "S"), Message("system", "T"), Message("user", "u"),
        Message("assistant", content, (ONE, TWO)), Message("tool", "1"), Message("tool", "2"),
        Message("assistant", "<think>x</think>done"),
    ][: last + 3]  # fmt: skip
    asks = messages[-1].role == "tool"
    theirs = said(tokenizer, messages, template=published("deepseekv3.jinja"), add_generation_prompt=asks)
    assert said(tokenizer, messages, name="deepseek_r1", add_generation_prompt=asks) == theirs


def test_v3_and_r1_write_every_round_in_full(tokenizer: Any) -> None:
    # V3-0324's own template gives these bytes; R1's forgets where it is after the first round.
    head = (
        f"{B}S<｜User｜>u<｜Assistant｜>{CALLS}{JSON_ONE}{CALLS_END}{E}{OUTS}{OUT}1{OUT_END}{OUTS_END}"
        f"more{CALLS}{JSON_ONE}\n{JSON_TWO}{CALLS_END}{E}{OUTS}{OUT}2{OUT_END}"
    )
    tail = f"{OUT}3{OUT_END}{OUTS_END}done\n{E}<｜User｜>v<｜Assistant｜>"
    v3, r1 = (
        said(tokenizer, ROUNDS, name=name, add_generation_prompt=True)
        for name in ("deepseek_v3", "deepseek_r1")
    )
    assert v3 == f"{head}\n{tail}"
    assert r1 == f"{head}{tail}<think>\n"


def test_v31_writes_calls_as_its_published_template(tokenizer: Any) -> None:
    one, two = f'{CALL}f{SEP}{{"a": 1}}{CALL_END}', f'{CALL}g{SEP}{{"b": "é"}}{CALL_END}'
    assert said(tokenizer, ROUNDS, name="deepseek_v31", add_generation_prompt=True) == (
        f"{B}S<｜User｜>u<｜Assistant｜></think>{CALLS}{one}{CALLS_END}{E}{OUT}1{OUT_END}"
        f"more{CALLS}{one}{two}{CALLS_END}{E}{OUT}2{OUT_END}{OUT}3{OUT_END}"
        f"done\n{E}<｜User｜>v<｜Assistant｜></think>"
    )


@pytest.mark.parametrize("name", ["deepseek_v3", "deepseek_r1", "deepseek_v31"])
def test_after_tool_outputs_the_model_goes_on_without_a_new_turn(tokenizer: Any, name: str) -> None:
    text = said(tokenizer, ROUNDS[:4], name=name, add_generation_prompt=True)
    assert text.endswith(OUT_END if name == "deepseek_v31" else OUTS_END)


def test_v32_says_plain_chat_as_v31_does(tokenizer: Any) -> None:
    messages = [ROUNDS[0], ROUNDS[1], Message("assistant", "<think>r</think>a"), ROUNDS[-1]]
    v31, v32 = (said(tokenizer, messages, name=name) for name in ("deepseek_v31", "deepseek_v32"))
    assert v31 == v32


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_a_generation_without_a_form_for_tools_refuses_them(tokenizer: Any, name: str) -> None:
    if declares_tools(name):
        assert said(tokenizer, ROUNDS, name=name, tools=json.dumps([SCHEMA]))
        return
    with pytest.raises(DataError, match="no form for tool calls"):
        said(tokenizer, ROUNDS, name=name)
    with pytest.raises(DataError, match=f"{name} has no form for tools"):
        said(tokenizer, ROUNDS[:2], name=name, tools=json.dumps([SCHEMA]))


def test_tools_are_declared_in_the_published_words_after_the_system_prompt(tokenizer: Any) -> None:
    text = said(tokenizer, ROUNDS[:2], name="deepseek_v31", tools=json.dumps([SCHEMA]))
    assert text == (
        f"{B}S\n\n## Tools\nYou have access to the following tools:\n\n### f\nDescription: 测\n\n"
        'Parameters: {"type": "object", "properties": {}}\n\n'
        "IMPORTANT: ALWAYS adhere to this exact format for tool use:\n"
        f"{CALLS}{CALL}tool_call_name{SEP}tool_call_arguments{CALL_END}"
        f"{{{{additional_tool_calls}}}}{CALLS_END}\n\nWhere:\n\n"
        "- `tool_call_name` must be an exact match to one of the available tools\n"
        "- `tool_call_arguments` must be valid JSON that strictly follows the tool's Parameters Schema\n"
        "- For multiple tool calls, chain them directly without separators or spaces\n<｜User｜>u"
    )
    assert said(tokenizer, ROUNDS[1:2], name="deepseek_v31", tools=json.dumps([SCHEMA])).startswith(
        f"{B}\n\n## Tools\n"
    )


def test_the_declared_form_is_the_form_of_the_calls() -> None:
    for name in ("deepseek_v3", "deepseek_r1"):
        assert f"{CALLS}{CALL}function{SEP}tool_call_name\n```json\n" in declaration(
            name, json.dumps([SCHEMA])
        )


def test_schemas_may_be_bare_or_wrapped_and_are_refused_when_they_are_neither() -> None:
    wrapped = {"type": "function", "function": SCHEMA}
    assert schemas(json.dumps([SCHEMA])) == schemas(json.dumps([wrapped])) == (wrapped,)
    for broken in ("{", "[" * 100_000, json.dumps([SCHEMA | {"description": "\ud800"}])):
        with pytest.raises(DataError, match="`tools` must be JSON: "):
            schemas(broken)
    for wrong in ("[1]", '[{"function": 1}]', '[{"description": "x"}]', '"f"'):
        with pytest.raises(DataError, match="list of function schemas"):
            schemas(wrong)
