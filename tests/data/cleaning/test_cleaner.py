"""Rows pass their filters with a reason for every change and every loss."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.config.data import CleaningConfig
from seektune.data.cleaning.cleaner import Cleaned, Tally, cleaner, excerpts, repeated_share
from seektune.types import Example, Message, Pair, Row, ToolCall

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
OFF = CleaningConfig(control_characters=False, whitespace=False, mojibake=False)


def chat(question: str, answer: str, options: tuple[str, ...] = ()) -> Example:
    turns = (Message("user", question), Message("assistant", answer))
    return Example(turns, "rows.jsonl:1", options, options.index(answer) if options else None)


def pair(prompt: str, chosen: str | None, rejected: str | None) -> Pair:
    sides = (None if side is None else Message("assistant", side) for side in (chosen, rejected))
    return Pair((Message("user", prompt),), *sides, "rows.jsonl:1")


def run(row: Row, **changes: object) -> Cleaned:
    return cleaner(OFF.model_copy(update=changes))(row)


def contents(row: Row | None) -> list[str]:
    assert isinstance(row, Example)
    return [message.content for message in row.messages]


def test_a_clean_row_comes_back_itself() -> None:
    row = chat("血压 120/80 mmHg，WBC 12.5×10^9/L？", "β-blockers, ≤5 mg (p<0.05)")
    cleaned = cleaner(CleaningConfig())(row)
    assert cleaned.row is row
    assert (cleaned.applied, cleaned.reason) == ((), "")


def test_with_every_filter_off_nothing_is_touched() -> None:
    row = chat(" \x00dirty\r\n ", "Ã© \u200b")
    assert cleaner(OFF)(row) == Cleaned(row)


def test_each_filter_that_changed_something_is_named_with_its_text_before_and_after() -> None:
    cleaned = cleaner(CleaningConfig())(chat("FranÃ§oise\x00  \nis ill", "yes\r\n"))
    assert contents(cleaned.row) == ["Françoise\nis ill", "yes"]
    assert cleaned.applied == ("mojibake", "control_characters", "whitespace")
    assert [(change.before, change.after) for change in cleaned.changes] == [
        ("FranÃ§oise\x00  \nis ill", "Françoise\x00  \nis ill"),
        ("Françoise\x00  \nis ill", "Françoise  \nis ill"),
        ("Françoise  \nis ill", "Françoise\nis ill"),
    ]


def test_the_answer_stays_among_the_options() -> None:
    cleaned = cleaner(CleaningConfig())(chat("which?", "A. five \x00", ("A. five \x00", "B. six ")))
    assert isinstance(cleaned.row, Example)
    assert cleaned.row.options == ("A. five", "B. six")
    assert cleaned.row.messages[-1].content == "A. five"


def test_options_that_a_filter_would_make_equal_leave_the_row_as_it_was() -> None:
    row = chat("Which is right?", "+1.5", ("+1.5", "-1.5"))
    assert run(row, punctuation=True) == Cleaned(row)
    blank = chat("Which sign?", "+", ("+", "a"))
    assert run(blank, punctuation=True) == Cleaned(blank)


def test_a_filter_may_not_make_or_lose_an_image_mark() -> None:
    row = chat("look: &lt;image&gt;", "a <im\u200bage> and </thi\u200bnk>")
    assert run(row, html=True, control_characters=True) == Cleaned(row)


def test_a_message_emptied_by_a_filter_drops_the_row() -> None:
    cleaned = run(chat("why?", "\u200b\ufeff"), control_characters=True)
    assert (cleaned.row, cleaned.reason, cleaned.detail) == (
        None,
        "empty after cleaning",
        "by control_characters",
    )
    assert cleaned.applied == ("control_characters",)


def test_a_turn_that_only_calls_a_tool_may_be_empty() -> None:
    call = Message("assistant", " ", (ToolCall("dose", '{"mg": 5}'),))
    row = Example((Message("user", "dose?"), call), "rows.jsonl:1")
    cleaned = run(row, whitespace=True)
    assert cleaned.row == replace(row, messages=(row.messages[0], replace(call, content="")))


def test_both_sides_of_a_pair_are_cleaned_and_must_still_differ() -> None:
    assert run(pair("q ", "a ", "b "), whitespace=True).row == pair("q", "a", "b")
    assert run(pair("q", "a ", None), whitespace=True).row == pair("q", "a", None)
    assert run(pair("q", "a", "a "), whitespace=True).reason == "chosen equals rejected after cleaning"


@pytest.mark.parametrize(
    ("changes", "row", "reason", "detail"),
    [
        ({"min_chars": 10}, chat("why?", "so"), "min_chars", "6 characters"),
        ({"max_chars": 5}, chat("why?", "so"), "max_chars", "6 characters"),
        ({"min_chars": 6, "max_chars": 6}, chat("why?", "so"), "", ""),
        ({"min_chars": 4}, pair("why", "because", ""), "min_chars", "3 characters"),
        ({"max_chars": 9}, pair("why", "because", "so"), "max_chars", "10 characters"),
        ({"languages": ("zh",)}, chat("What is the dose of it?", "It is the"), "language", "en"),
        ({"languages": ("zh", "en")}, chat("What is the dose of it?", "It is the"), "", ""),
        ({"languages": ("zh",)}, chat("12.5 ≤ 13", "±0.2"), "", ""),
        ({"repetition": True}, chat("why?", "好的，" * 40), "repetition", "97% of the answer repeats"),
        ({"repetition": True}, chat("ha " * 40, "so"), "", ""),
        ({"repetition": True}, pair("why", "no", "ha " * 40), "", ""),
        ({"pii": "drop"}, chat("电话13812345678，邮箱a@b.cn", "a@c.cn"), "pii", "1 PHONE, 2 EMAIL"),
        ({"pii": "drop"}, chat("剂量 500 mg，2010-2015 年", "10^9/L"), "", ""),
    ],
)
def test_row_filters_drop_with_their_name_and_what_they_saw(
    changes: dict[str, object], row: Row, reason: str, detail: str
) -> None:
    cleaned = run(row, **changes)
    assert (cleaned.reason, cleaned.detail) == (reason, detail)
    assert (cleaned.row is None) == bool(reason)


def test_the_english_instruction_under_a_chinese_question_does_not_make_it_english() -> None:
    instruction = "Answer with the letter and the text of the correct option."
    options = ("A. 水冲脉", "B. 交替脉", "C. V1～V3", "D. HBsAg")
    row = chat("\n".join(["RNA是", *options, instruction]), options[0], options)
    assert run(row, languages=("zh",)).row is row


def test_personal_data_is_masked_in_messages_options_and_tool_arguments() -> None:
    options = ("13812345678", "none")
    assert run(chat("打给张三13912345678", options[0], options), pii="mask").row == chat(
        "打给张三[PHONE]", "[PHONE]", ("[PHONE]", "none")
    )
    call = Message("assistant", "", (ToolCall("call", '{"to": 13812345678}'),))
    cleaned = run(Example((Message("user", "打给他"), call), "r:1"), pii="mask")
    assert isinstance(cleaned.row, Example)
    assert cleaned.row.messages[1].tool_calls == (ToolCall("call", '{"to": "[PHONE]"}'),)
    assert cleaned.applied == ("pii",)


def test_a_row_that_cannot_be_masked_is_dropped() -> None:
    options = ("13812345678", "13912345678")
    cleaned = run(chat("哪个号码？", options[0], options), pii="mask")
    assert (cleaned.row, cleaned.reason, cleaned.detail) == (None, "pii", "3 PHONE")


def test_html_and_boilerplate_are_off_by_default_and_work_when_on() -> None:
    row = chat("<p>p&lt;0.05, a<b</p>", "答案\n关注微信公众号获取更多")
    assert cleaner(CleaningConfig())(row).row is row
    cleaned = run(row, html=True, boilerplate=True, whitespace=True)
    assert contents(cleaned.row) == ["p<0.05, a<b", "答案"]
    assert cleaned.applied == ("html", "boilerplate", "whitespace")


def test_the_tally_counts_every_filter_and_shows_three_rows() -> None:
    clean, tally = cleaner(CleaningConfig()), Tally()
    for number in range(5):
        row = replace(chat("why\u200b?", f"so {number} " if number else "so"), row_id=f"r:{number}")
        tally.add(row.row_id, clean(row))
    summary = tally.to_json()
    assert {name: entry["count"] for name, entry in summary.items()} == {
        "control_characters": 5,
        "whitespace": 4,
    }
    assert [example["row"] for example in summary["control_characters"]["examples"]] == ["r:0", "r:1", "r:2"]
    assert summary["control_characters"]["examples"][0] == {
        "row": "r:0",
        "before": "why\\u200b?",
        "after": "why?",
    }
    json.dumps(summary)


def test_excerpts_show_the_place_of_the_change() -> None:
    before = "x" * 100 + "Ã©" + "y" * 100
    assert excerpts(before, before.replace("Ã©", "é")) == (
        "…" + "x" * 30 + "Ã©" + "y" * 30 + "…",
        "…" + "x" * 30 + "é" + "y" * 30 + "…",
    )
    assert excerpts("a \r\nb", "a\nb") == ("a \\r\\nb", "a\\nb")


@given(st.text(max_size=200), st.text(max_size=200))
def test_excerpts_of_any_texts_are_short_and_printable(before: str, after: str) -> None:
    assert all(len(shown) < 1300 and shown.isprintable() for shown in excerpts(before, after))


@pytest.mark.parametrize(
    ("text", "share"), [("short", 0.0), ("a b c d e f g h i j " * 10, 0.9), ("好" * 100, 0.99)]
)
def test_repetition_is_the_share_of_runs_seen_before(text: str, share: float) -> None:
    assert repeated_share(text) == pytest.approx(share, abs=0.01)


@given(st.text(max_size=80), st.text(max_size=80), st.sampled_from(["keep", "mask", "drop"]), st.booleans())
def test_any_row_is_kept_or_dropped_with_a_reason(question: str, answer: str, pii: str, on: bool) -> None:
    config = CleaningConfig(
        html=on, boilerplate=on, punctuation=on, repetition=on, languages=("zh",) * on, pii=pii
    )
    row = chat(question, answer)
    cleaned = cleaner(config)(row)
    assert (cleaned.row is None) == bool(cleaned.reason)
    if cleaned.row is not None:
        assert (cleaned.row == row) == (not cleaned.applied)


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared data absent")
@pytest.mark.parametrize(
    ("file", "code"),
    [("cmexam/practice_train", "zh"), ("medqa/dev_5opt", "en"), ("medmcqa/validation", "en")],
)
def test_the_language_filter_keeps_real_questions_of_its_language(file: str, code: str) -> None:
    clean = cleaner(CleaningConfig(languages=(code,), repetition=True))
    lines = (SHARED / f"{file}.jsonl").read_text(encoding="utf-8").split("\n")
    records = [json.loads(line) for line in lines if line]
    reasons = []
    for record in records:
        options = tuple(f"{letter}. {text}" for letter, text in record["options"].items())
        answer = options[list(record["options"]).index(record["answer_idx"])]
        reasons.append(clean(chat("\n".join([record["question"], *options]), answer)).reason)
    assert sum(map(bool, reasons)) <= 0.002 * len(records)
