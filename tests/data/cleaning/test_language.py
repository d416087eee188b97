"""Scripts and common words tell the language; numbers and formulas are nobody's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.cleaning.language import UNDETERMINED, language

SHARED = Path(__file__).parents[3].parent / "shared" / "data"

SENTENCES = {
    "zh": "患者，男，35岁。因“发热3天”入院，HBsAg(+)，AFP 400 ng/mL，最可能的诊断是",
    "ja": "患者は３５歳の男性で、三日前から発熱があり入院した。",
    "ko": "환자는 35세 남성으로 3일 전부터 발열이 있었다.",
    "ru": "Пациент 35 лет поступил с жалобами на лихорадку.",
    "uk": "Пацієнт віком 35 років надійшов зі скаргами на гарячку.",
    "ar": "المريض رجل يبلغ من العمر خمسة وثلاثين عاما يعاني من الحمى",
    "fa": "بیمار مردی سی و پنج ساله است که از تب رنج می‌برد و پزشک",
    "ur": "مریض پینتیس سال کا ایک آدمی ہے جسے بخار ہے",
    "he": "המטופל הוא גבר בן שלושים וחמש הסובל מחום",
    "th": "ผู้ป่วยชายอายุสามสิบห้าปีมีไข้มาสามวัน",
    "hi": "रोगी पैंतीस वर्ष का पुरुष है जिसे बुखार है",
    "el": "Ο ασθενής είναι άνδρας τριάντα πέντε ετών με πυρετό",
    "en": "A 35-year-old man comes to the physician because of fever for 3 days.",
    "de": "Ein 35-jähriger Mann stellt sich mit Fieber in der Klinik vor und ist müde.",
    "fr": "Un homme de 35 ans consulte pour une fièvre qui dure depuis trois jours.",
    "es": "Un hombre de 35 años acude a la consulta por fiebre desde hace tres días.",
    "pt": "Um homem de 35 anos procura o médico com febre há três dias e não dorme.",
    "it": "Un uomo di 35 anni si presenta dal medico con la febbre che dura da tre giorni.",
    "nl": "Een man van 35 jaar komt bij de arts met koorts die al drie dagen duurt.",
    "vi": "Bệnh nhân nam 35 tuổi nhập viện vì sốt đã ba ngày, được chẩn đoán viêm phổi.",
    "tr": "35 yaşında bir erkek hasta üç gündür süren ateş ile acile geldi ve çok yorgun.",
}


@pytest.mark.parametrize(("code", "text"), SENTENCES.items(), ids=list(SENTENCES))
def test_a_sentence_is_told_by_its_script_or_its_common_words(code: str, text: str) -> None:
    assert language(text) == code


@pytest.mark.parametrize("text", ["", "  \n", "12.5 ≤ 13", "10^9/L, 37.5 ℃ ±0.2", "α, β ① →", "🙂🙂"])
def test_numbers_units_and_signs_are_undetermined(text: str) -> None:
    assert language(text) == UNDETERMINED


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("RNA是", "zh"),
        ("使用HBV DNA、ALT、AST、AFP和PIVKA-II监测", "zh"),
        ("她喜欢の这个字，常用于店名和广告，例如鲜の每日", "zh"),
        ("The word 你好 means hello, and it is the most common greeting", "en"),
        ("β-blockers are the treatment of choice for α1 antitrypsin?", "en"),
        ("SI unit of X-ray", "en"),
        ("Vitamin D deficiency in the elderly", "en"),
    ],
)
def test_foreign_words_within_a_sentence_do_not_change_it(text: str, code: str) -> None:
    assert language(text) == code


@given(st.text(max_size=200))
def test_any_text_gets_a_code_of_two_letters_or_und(text: str) -> None:
    code = language(text)
    assert code == UNDETERMINED or (len(code) == 2 and code.isalpha())


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared data absent")
@pytest.mark.parametrize(
    ("file", "key", "code", "share"),
    [
        ("cmexam/practice_train.jsonl", "question", "zh", 1.0),
        ("medqa/dev_5opt.jsonl", "question", "en", 1.0),
        ("medmcqa/validation.jsonl", "question", "en", 0.98),
        ("sst2/train.jsonl", "text", "en", 0.97),
        ("trec/train.jsonl", "text", "en", 0.99),
    ],
)
def test_real_questions_are_in_the_language_they_are_in(file: str, key: str, code: str, share: float) -> None:
    lines = (SHARED / file).read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line]
    assert key in rows[0]
    assert sum(language(row[key]) == code for row in rows) >= share * len(rows)
