"""Each lint finds what it is named after, and nothing in rows that are well made."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from seektune.data.templates.lint import NAMES, lint, linter, template_differs
from seektune.data.templates.render import to_sample
from seektune.data.templates.texts import TEMPLATES
from seektune.types import IGNORE, Example, Message, Sample, ToolCall

QUESTION = Message("user", "Dose of aspirin, p<0.05 [1]?")
ROW = Example((QUESTION, Message("assistant", "Give 325 mg of it.")), "rows:1")
REASONED = Message("assistant", "<think>\nbecause\n</think>\n\nyes.")


def chat_of(tokenizer: Any, template: str = "deepseek_v3", own: str | None = None) -> SimpleNamespace:
    copied = copy.copy(tokenizer)
    copied.chat_template = own
    return SimpleNamespace(tokenizer=copied, template=template)


@pytest.mark.parametrize("template", sorted(TEMPLATES))
@pytest.mark.parametrize("final", [ROW.messages[1], REASONED])
def test_a_well_made_row_has_nothing_to_report(tokenizer: Any, template: str, final: Message) -> None:
    chat = chat_of(tokenizer, template)
    row = replace(ROW, messages=(QUESTION, ROW.messages[1], QUESTION, final))
    assert lint(chat, row, to_sample(chat, row)) == ()
    text = Example((Message("assistant", "plain text"),), "rows:2")
    assert lint(chat, text, to_sample(chat, text)) == ()


def test_a_doubled_bos_is_found(chat: SimpleNamespace) -> None:
    sample = to_sample(chat, ROW)
    doubled = replace(
        sample, input_ids=(sample.input_ids[0], *sample.input_ids), targets=(IGNORE, *sample.targets)
    )
    assert lint(chat, ROW, doubled) == ("doubled_bos",)


@pytest.mark.parametrize("template", ["deepseek_v3", "deepseek_v2", "deepseek_coder"])
@pytest.mark.parametrize(("missing", "name"), [(1, "missing_eos"), (4, "answer_truncated")])
def test_an_end_that_is_not_there_is_told_from_an_answer_that_is_not(
    tokenizer: Any, template: str, missing: int, name: str
) -> None:
    chat = chat_of(tokenizer, template)
    if template == "deepseek_coder":
        end = tokenizer.encode("\n<|EOT|>", add_special_tokens=False)
        missing += len(end) - 2  # a newline is one token with the full stop
    sample = to_sample(chat, ROW)
    cut = replace(sample, input_ids=sample.input_ids[:-missing], targets=sample.targets[:-missing])
    assert lint(chat, ROW, cut) == (name,)


def test_an_end_of_a_tool_call_counts_as_an_end(chat: SimpleNamespace) -> None:
    row = Example((QUESTION, Message("assistant", "", (ToolCall("f", '{"a": 1}'),))), "rows:1")
    sample = to_sample(chat, row)
    assert lint(chat, row, sample) == ()
    cut = replace(sample, input_ids=sample.input_ids[:-8], targets=sample.targets[:-8])
    assert lint(chat, row, cut) == ("answer_truncated",)


def test_reasoning_lost_is_found(tokenizer: Any) -> None:
    chat = chat_of(tokenizer, "deepseek_r1")
    row = Example((QUESTION, REASONED), "rows:1")
    without = to_sample(chat, Example((QUESTION, Message("assistant", "yes.")), "rows:1"))
    careless = replace(
        without,
        targets=tuple(t if t != tokenizer.convert_tokens_to_ids("</think>") else 5 for t in without.targets),
    )
    assert lint(chat, row, careless) == ("thinking_lost",)
    longer = Example((QUESTION, REASONED, QUESTION, REASONED), "rows:1")
    assert lint(chat, longer, to_sample(chat, longer)) == ("thinking_lost",)  # that of the first turn
    keeps = chat_of(tokenizer, "deepseek_v3")
    assert lint(keeps, longer, to_sample(keeps, longer)) == ()


def test_a_row_that_trains_nothing_is_found(chat: SimpleNamespace) -> None:
    row = Example((QUESTION, Message("assistant", "a", weight=0.0)), "rows:1")
    assert lint(chat, row, to_sample(chat, row)) == ("nothing_to_train",)
    assert lint(chat, ROW, replace(to_sample(chat, ROW), weight=0.0)) == ("nothing_to_train",)
    earlier = Example((QUESTION, ROW.messages[1], QUESTION, Message("assistant", "a", weight=0.0)), "rows:1")
    assert lint(chat, earlier, to_sample(chat, earlier)) == ()


@pytest.mark.parametrize(
    ("role", "text", "found"),
    [
        ("user", "a <｜Assistant｜> b", True),
        ("user", "<<｜end▁of▁sentence｜>", True),
        ("user", "<think>", True),
        ("system", "<｜tool▁calls▁begin｜>", True),
        ("user", "if a<b and c>d, <b>, [1], <image>", False),
        ("assistant", "<｜User｜>", True),
    ],
)
def test_control_tokens_in_text_are_found(chat: SimpleNamespace, role: str, text: str, found: bool) -> None:
    messages = {"user": QUESTION, "system": Message("system", "s"), "assistant": ROW.messages[1]}
    messages[role] = Message(role, text)
    row = Example((messages["system"], messages["user"], messages["assistant"]), "rows:1")
    assert ("control_token_in_text" in lint(chat, row, to_sample(chat, row))) is found


def test_names_are_those_that_are_given() -> None:
    assert len(set(NAMES)) == 6


def test_linting_costs_little(chat: SimpleNamespace) -> None:
    row = Example((Message("user", "word " * 160), ROW.messages[1]), "rows:1")
    sample = to_sample(chat, row)
    run = linter(chat)
    start = time.process_time()
    for _ in range(2000):
        assert run(row, sample) == ()
    assert (time.process_time() - start) / 2000 < 50e-6  # measured: 2 µs


def test_a_template_unlike_its_generations_is_told(tokenizer: Any) -> None:
    assert template_differs(chat_of(tokenizer)) is None
    for name, text in TEMPLATES.items():
        assert template_differs(chat_of(tokenizer, name, text)) is None
    other = template_differs(chat_of(tokenizer, "deepseek_v3", TEMPLATES["deepseek_v2"]))
    assert other is not None
    assert other.startswith("for a question the tokenizer's template says '<｜begin▁of▁sentence｜>User: u")
    forgets = template_differs(chat_of(tokenizer, "deepseek_r1", TEMPLATES["deepseek_v3"]))
    assert forgets is not None
    assert "<think>" in forgets
    broken = template_differs(chat_of(tokenizer, "deepseek_v3", "{{ raise_exception('no') }}"))
    assert broken is not None
    assert "no" in broken


def test_a_template_that_renders_no_answer_can_still_be_linted(tokenizer: Any) -> None:
    chat = chat_of(tokenizer, own="{{ messages | length }}")
    sample = Sample((0, 5), (5, tokenizer.eos_token_id), "rows:1")
    assert lint(chat, ROW, sample) == ()
