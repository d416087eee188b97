"""A conversation filled into a skeleton is what the template writes, or the template writes it."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seektune.data.templates.render import pieces
from seektune.data.templates.skeletons import Piece, Skeletons
from seektune.data.templates.texts import TEMPLATES, declares_tools
from seektune.errors import DataError
from seektune.types import Example, Message, ToolCall

CHAT_ML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + CONTENT + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
OWN = {
    "chat_ml": CHAT_ML.replace("CONTENT", "m.content"),
    "trimmed": CHAT_ML.replace("CONTENT", "m.content | trim"),
    "upper": CHAT_ML.replace("CONTENT", "(m.content | upper if m.role == 'user' else m.content)"),
    "peeking": CHAT_ML.replace("CONTENT", "(m.content + '!' if '<hot>' in m.content else m.content)"),
    "endless": "{% for m in messages %}{{ m.content }}{% endfor %}",
}

texts = st.sampled_from(
    [
        "",
        " ",
        "\n",
        "a",
        " a\n",
        "{0}",
        "{{ x }}",
        "%s",
        "<think>",
        "</think>",
        "<hot>",
        "<|im_end|>",
        "。",
        "\ue000",
        "\ue0010\ue001",
    ]
) | st.text(max_size=12)
reasoned = st.builds(
    "{}{}</think>{}".format, st.sampled_from(["", "<think>", "<think>\n", "<think>\n\n"]), texts, texts
)
calls = st.lists(st.builds(ToolCall, texts.filter(bool), st.just('{"a": 1}')), max_size=2).map(tuple)


@st.composite
def conversations(draw: st.DrawFn, tools: bool) -> Example:
    messages = [Message("system", draw(texts))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(texts)))
        if tools and draw(st.booleans()):
            asked = draw(calls)
            messages.append(Message("assistant", draw(texts), asked))
            messages += [Message("tool", draw(texts)) for _ in asked]
        messages.append(Message("assistant", draw(texts | reasoned)))
    return Example(tuple(messages), "rows:1")


def chat_of(tokenizer: Any, name: str) -> SimpleNamespace:
    own = copy.copy(tokenizer)
    own.chat_template = OWN.get(name)
    return SimpleNamespace(tokenizer=own, template=name)


def outcome(write: Any, example: Example) -> list[Piece] | str:
    try:
        found: list[Piece] = write(example)
    except DataError as error:
        return str(error)
    return found


@pytest.mark.parametrize("name", [*sorted(TEMPLATES), *OWN])
def test_a_skeleton_says_what_the_template_says(tokenizer: Any, name: str) -> None:
    chat = chat_of(tokenizer, name)
    skeletons = Skeletons(lambda row: pieces(chat, row), {"<hot>", "<|im_start|>", "<|im_end|>"})

    @given(conversations(declares_tools(name)))
    @settings(deadline=None, max_examples=50)
    def equal(example: Example) -> None:
        assert outcome(skeletons.pieces, example) == outcome(lambda row: pieces(chat, row), example)

    equal()


def counted(tokenizer: Any, name: str, rows: list[Example], marks: set[str]) -> int:
    """How often the template had to write a row itself."""
    ran: list[Example] = []
    chat = chat_of(tokenizer, name)

    def write(row: Example) -> list[Piece]:
        ran.append(row)
        return pieces(chat, row)

    skeletons = Skeletons(write, marks)
    for row in rows:
        skeletons.pieces(row)
    return sum(row.row_id != "shape" for row in ran)


def rows_of(count: int, answer: str = "a") -> list[Example]:
    return [
        Example((Message("user", f"{n} <b>"), Message("assistant", f"{answer}{n}")), f"rows:{n}")
        for n in range(count)
    ]


@pytest.mark.parametrize("name", [*sorted(TEMPLATES), "chat_ml", "trimmed", "endless"])
@pytest.mark.parametrize("answer", ["a", "<think>\nbecause</think>"])
def test_the_template_writes_only_the_first_rows_of_a_shape(tokenizer: Any, name: str, answer: str) -> None:
    assert counted(tokenizer, name, rows_of(50, answer), set()) == 2


def test_long_conversations_with_tools_have_skeletons_too(tokenizer: Any) -> None:
    def row(n: int) -> Example:
        call = Message("assistant", "", (ToolCall(f"f{n}", f'{{"a": {n}}}'),))
        asked = (Message("user", f"u{n}"), call, Message("tool", f"o{n}"), Message("assistant", f"a{n}"))
        return Example((Message("system", f"s{n}"), *asked, *asked), f"rows:{n}")

    for name in ("deepseek_v3", "deepseek_r1", "deepseek_v31"):
        assert counted(tokenizer, name, [row(n) for n in range(20)], set()) == 2


def test_a_template_that_changes_texts_writes_every_row(tokenizer: Any) -> None:
    assert counted(tokenizer, "upper", rows_of(20), set()) == 20


def test_a_text_with_a_mark_of_the_template_is_the_templates_to_write(tokenizer: Any) -> None:
    rows = [Example((Message("user", "<hot>"), Message("assistant", "a")), f"rows:{n}") for n in range(20)]
    assert counted(tokenizer, "peeking", rows, {"<hot>"}) == 20
