"""Text filters repair what is broken and leave every sign of medical text alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.cleaning.filters import (
    boilerplate,
    control_characters,
    mojibake,
    punctuation,
    split_code,
    whitespace,
)

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
FIX = mojibake
DEFAULTS = (FIX, control_characters, whitespace)

MEDICAL = (
    "WBC 12.5×10^9/L，Hb 95 g/L，CRP ≤0.5 mg/dL；T 38.5℃，BP 120/80 mmHg，SpO₂ 98 %（室内空气）。",
    "β-内酰胺类、α₁-受体、γ-GT、Ca²⁺ 2.25 mmol/L、HCO₃⁻ 24、Na⁺、H₂O、CO₂、10⁹、μg 与 µg。",
    "①发热 ②咳嗽 Ⅰ期 Ⅱ型 ㎎ ㎜ ％ ＋ － ～ 〔注〕《内科学》「」【题干】…… —— ·",
    "p<0.05, P＜0.05, n=30, r²=0.98, x̄±s, ≥ 65 岁, 5–10 mg, 1/2, ½, 37.5 °C, 10 Å², Ø±0.5, 3×²",
    "| 药物 | 剂量 |\n|---|---:|\n| 阿司匹林 | 100 mg |\n\n    indented\n\tx = a < b > c",
    "　　患者，男，35岁。\n　　现病史：发热3天。",
    "Ménière’s disease, Sjögren, Guillain–Barré, “quoted”, naïve, ANDRÉ¹, MARÍA², 25 º, £5, ﬁne ＡＢＣ",
    "$\\frac{a}{b}\\ge 0$, ΔG = −RT ln K, √2, √≥2, ∑, ∫, ≈, ∝, →, ⇌, 5′-ATG-3′, ½, ‰, &lt;tag&gt; &amp; AT&T",
    "```python\nx = 1   \n\n\n\n\nprint(x)\t\n```",
    "<image>这张X线片<think>reason</think>\nanswer",
    "می‌رود 👩‍⚕️ 👨‍👩‍👧 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f क्‍ष שלום\u200f!",
)


@pytest.mark.parametrize("text", MEDICAL)
@pytest.mark.parametrize("repair", DEFAULTS, ids=["mojibake", "control_characters", "whitespace"])
def test_no_default_filter_touches_medical_text(text: str, repair: Callable[[str], str]) -> None:
    assert repair(text) == text


@given(st.text(alphabet="".join(sorted(set("".join(MEDICAL[:8])) - set("\n\t\u3000 "))), max_size=60))
def test_no_default_filter_touches_medical_signs_in_any_order(text: str) -> None:
    assert control_characters(text) == text
    assert whitespace(text) == text


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("\ufeff题干\x00\x08", "题干"),
        ("page one\x0cpage two\x85three\u2028four", "page one\npage two\nthree\nfour"),
        ("one\u2029two", "one\n\ntwo"),
        ("zero\u200bwidth soft\xadhyphen word\u2060joiner", "zerowidth softhyphen wordjoiner"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("left\u202eright\u200f", "leftright"),
        ("a\u200db 药\u200c物", "ab 药物"),
        ("hidden\U000e0041\U000e0042", "hidden"),
        ("a\r\nb\tc", "a\r\nb\tc"),
    ],
)
def test_characters_that_show_nothing_go(dirty: str, clean: str) -> None:
    assert control_characters(dirty) == clean


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("a\r\nb\rc", "a\nb\nc"),
        ("dose  \nunit\t\n末尾　\nx\xa0", "dose\nunit\n末尾\nx"),
        ("a\n\n\nb", "a\n\n\nb"),
        ("a\n\n\n\n\n\nb", "a\n\n\nb"),
        ("a\n \n \n \n \nb", "a\n\n\nb"),
        ("\n  \n    code\n  more\n", "    code\n  more"),
        ("  one line ", "one line"),
        ("　　full-width indent ", "　　full-width indent"),
        ("text  \n```\nkeep  \n\n\n\n\nthis\n```\nmore  \n", "text\n```\nkeep  \n\n\n\n\nthis\n```\nmore"),
        ("~~~\nnever closed  \nx", "~~~\nnever closed  \nx"),
        (" \n\t\n", ""),
    ],
)
def test_whitespace_is_tidied_at_line_ends_only_and_never_in_code(dirty: str, clean: str) -> None:
    assert whitespace(dirty) == clean


@given(st.text(alphabet="ab 药\n\r\t\u3000`~\xa0", max_size=60))
def test_tidying_whitespace_twice_changes_nothing_more_and_loses_no_sign(text: str) -> None:
    once = whitespace(text)
    assert whitespace(once) == once
    assert "".join(once.split()) == "".join(text.split())


@given(st.text(alphabet="ab \n`~", max_size=80))
def test_the_parts_around_code_make_the_whole_text(text: str) -> None:
    assert "".join(part for part, _ in split_code(text)) == text


@pytest.mark.parametrize(
    ("broken", "right"),
    [
        ("patientâ€™s temp 39 Â°C", "patient’s temp 39 °C"),
        ("FranÃ§oise, JosÃ©", "Françoise, José"),
        ("患者patientâ€™s体温39 Â°C", "患者patient’s体温39 °C"),
        ("æ‚£è€…ï¼Œç”·", "患者，男"),
        ("3 Ã— 10, â‰¥5 mg, 5 Âµg/dL, 3â€“5 days", "3 × 10, ≥5 mg, 5 µg/dL, 3–5 days"),
        ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "привет"),
        ("\x93quote\x94 it\x92s", "“quote” it’s"),
        ("5 Å³ and JosÃ©", "5 Å³ and José"),
    ],
)
def test_a_wrong_decoding_is_undone(broken: str, right: str) -> None:
    assert FIX(broken) == right


WORDS = (
    "naïve ",
    "Müller’s ",
    "“quoted” ",
    "5–10 ",
    "µg ",
    "患者，",
    "39 °C ",
    "≥5 ",
    "Å ",
    "10⁹/L ",
    "β₂-",
    "É. ",
)


@given(st.lists(st.sampled_from(WORDS), min_size=3, max_size=30))
def test_what_is_not_broken_is_never_repaired(words: list[str]) -> None:
    text = "".join(words)
    assert FIX(text) == text


@given(st.lists(st.sampled_from(["患者", "，", "é ", "≥ ", "诊断", "’s ", "mg "]), min_size=3, max_size=20))
def test_utf_8_read_as_latin_1_comes_back(pieces: list[str]) -> None:
    text = "".join(pieces)
    broken = text.encode().decode("latin-1")
    assert FIX(broken) in (text, broken)
    if any(sign in text for sign in ("患", "诊")):
        assert FIX(broken) == text


def test_lines_of_a_web_page_go_and_sentences_about_them_stay() -> None:
    page = (
        "肺炎的治疗\n关注微信公众号“健康”获取更多\n首选青霉素。\n扫描二维码\n版权所有 转载请注明出处\n"
        "This website uses cookies to improve your experience.\n© 2023 Example. All rights reserved.\n"
        "Click here to read more\n- Subscribe to our newsletter\nRead more\nDose: 5 mg."
    )
    assert boilerplate(page) == "肺炎的治疗\n首选青霉素。\nDose: 5 mg."
    kept = "Patients who click here often eat cookies.\n患者关注自己的体重，并使用微信。\nRead more books."
    assert boilerplate(kept) == kept


def test_stripping_punctuation_is_as_harmful_as_documented_but_keeps_the_marks() -> None:
    assert punctuation("p<0.05, 12.5×10^9/L（高）") == "p005 125109L高"
    assert punctuation("<image><think>a, b.</think>c!") == "<image><think>a b</think>c"
    assert punctuation("किताब।") == "किताब"


@pytest.mark.parametrize(
    "text",
    [
        " " * 100_000 + "x",
        " \n" * 50_000,
        "```\n" * 30_000,
        "Ã" * 100_000,
        "\u200b" * 100_000,
        "\x1b[" * 50_000,
    ],
    ids=["spaces", "lines", "fences", "leads", "invisible", "escapes"],
)
def test_hostile_text_takes_linear_time(text: str) -> None:
    start = time.process_time()
    for repair in (*DEFAULTS, boilerplate, punctuation):
        repair(text)
    assert time.process_time() - start < 2


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from texts(item)


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared data absent")
@pytest.mark.parametrize(
    "file",
    [
        "medqa/dev_5opt",
        "medqa/train_o1demo_cot",
        "cmexam/practice_train",
        "pubmedqa/train",
        "medmcqa/validation",
    ],
)
def test_the_defaults_change_no_sign_of_real_medical_questions(file: str) -> None:
    lines = (SHARED / f"{file}.jsonl").read_text(encoding="utf-8").split("\n")
    for text in (text for line in lines if line for text in texts(json.loads(line))):
        after = whitespace(control_characters(FIX(text)))
        assert after.split() == text.split()
