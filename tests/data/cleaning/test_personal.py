"""Personal data is found by pattern and checksum; numbers of medicine are not personal."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.cleaning.personal import Found, find, mask, mask_json

SHARED = Path(__file__).parents[3].parent / "shared" / "data"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("患者电话13812345678，请联系", "患者电话[PHONE]，请联系"),
        ("手机：138-1234-5678或139 1234 5678", "手机：[PHONE]或[PHONE]"),
        ("+86 138 1234 5678 / 8613812345678 / 联系+8613812345678。", "[PHONE] / [PHONE] / 联系[PHONE]。"),
        ("（010）62345678，0571-87654321，021 6234 5678", "[PHONE]，[PHONE]，[PHONE]"),
        ("电话：87654321；tel. 7654321", "电话：[PHONE]；tel. [PHONE]"),
        ("(415) 555-2671, 415-555-2671, +1 (415) 555-2671", "[PHONE], [PHONE], [PHONE]"),
        ("+44 20 7946 0958 and +49 30 1234567", "[PHONE] and [PHONE]"),
        ("手机１３８１２３４５６７８", "手机[PHONE]"),
        ("a.b+c@x-y.co.uk,发邮件至zhang@163.com谢谢", "[EMAIL],发邮件至[EMAIL]谢谢"),
        ("mail@example.com 13812345678", "[EMAIL] [PHONE]"),
        ("身份证号11010519491231002X，440524188001010014", "身份证号[ID]，[ID]"),
        ("身份证11010519491231002x", "身份证[ID]"),
        ("卡号6222021234567890128 或 4111 1111 1111 1111", "卡号[CARD] 或 [CARD]"),
    ],
)
def test_personal_data_is_masked_by_kind(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "WBC 12.5×10^9/L，15000000000/L，HBV DNA 13800000000 copies/ml，13812345678个",
        "2010-2015年，1985-03-12，2023-01-01 08:30:00，20230101",
        "doi:10.1016/j.cell.2013.13812345678 10.1000/13812345678 PMID: 31234567 NCT01234567",
        "ISBN 9787117123456, CAS 7732-18-5, chr7:140453136-140453137, ATC 1234567",
        "200-400-1000 mg, 500-1000-2000 IU, 120/80 mmHg, 98.6 °F, pH 7.35-7.45",
        "telephone 2010-2015; call 1000000; 电话随访2010-2015年",
        "+5.50 -2.25 x 180, Na+ 140 145 139 150 144, (+) 120 130",
        "0.13812345678, 3.13812345678, 1,381,234,567, 6.02214076e23",
        "110105194912310021 fails its checksum, 4111111111111112 too, 123456789012345678",
        "https://example.org/13812345678/11010519491231002X",
        "user@host, a@b, @name, x@y.z",
        "010101010101 101010101010 邮编100730 住院号0012345678",
    ],
)
def test_doses_values_dates_and_references_are_not_personal(text: str) -> None:
    assert find(text) == []
    assert mask(text) is text


def test_the_place_and_kind_of_each_finding_are_told_in_order() -> None:
    text = "打13812345678或写信a@b.cn"
    assert find(text) == [Found(1, 12, "PHONE"), Found(15, 21, "EMAIL")]


def test_the_arguments_of_a_tool_call_stay_json() -> None:
    arguments = '{"phone": 13812345678, "to": ["a@b.cn", "药\\n13812345678"], "dose": 5.5, "sure": true}'
    assert json.loads(mask_json(arguments)) == {
        "phone": "[PHONE]",
        "to": ["[EMAIL]", "药\n[PHONE]"],
        "dose": 5.5,
        "sure": True,
    }
    assert mask_json('{"a":  1}') == '{"a":  1}'
    assert mask_json("call 13812345678") == "call [PHONE]"


@given(st.text(alphabet="0123456789+- ()a@.X药电话", max_size=60))
def test_findings_are_apart_and_masking_twice_changes_nothing_more(text: str) -> None:
    found = find(text)
    assert all(one.end <= other.start for one, other in pairwise(found))
    masked = mask(text)
    assert all(text[one.start : one.end] for one in found)
    assert bool(found) == (masked != text)


@pytest.mark.parametrize(
    "piece", ["1", "+1", "电话", "1 ", "a@", "a.", "6222 ", "138 1234 ", "tel ", "(", "1-", "a"]
)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    start = time.process_time()
    mask(piece * (100_000 // len(piece)) + "@1234567")
    assert time.process_time() - start < 2


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared data absent")
@pytest.mark.parametrize(
    "file",
    ["medqa/dev_5opt", "cmexam/practice_train", "pubmedqa/train", "medmcqa/validation", "esft_intent/train"],
)
def test_real_medical_questions_hold_nothing_personal(file: str) -> None:
    for line in (SHARED / f"{file}.jsonl").read_text(encoding="utf-8").split("\n"):
        assert find(line) == []
