"""The data report says what report.json says, shows nothing empty, and runs nothing a record wrote."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from data_folders import MATCH, PROFILE, REPORT, write_data
from hypothesis import given
from hypothesis import strategies as st
from pages import text_of

from seektune.reports.data import HEAD, TAIL, fates, histogram, places, shares, shown, write_data_report


def text_with(tmp_path: Path, **parts: Any) -> str:
    return text_of(write_data_report(write_data(tmp_path / "medical" / "data", **parts)))


def test_the_page_lies_beside_its_numbers_and_names_the_run(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "medical" / "data")
    path = write_data_report(folder)
    assert path == folder / "report.html"
    assert "medical · chat template deepseek_v3" in text_of(path)


def test_every_section_says_what_the_report_found(tmp_path: Path) -> None:
    text = text_with(tmp_path)
    for expected in (
        "5,000 records came in", "4,475 kept", "9.0 % of them with loss",  # what became of it
        "gb18030", "not utf-8", "cmexam.jsonl:14 Expecting ',' at column 88", "a.jsonl:7 of a.jsonl:3",
        "BehÃ§et’s Behçet’s", "cmexam.jsonl:30 medmcqa.jsonl:8 100 %", "o1.jsonl:5", "160 median",
        "Longer than 2,048: dropped", "0.25 %", "English 62.0 %", "yes 61.3 %", "first 32.0 %",
        "Which of the following", "412 packed rows, 98.4 % full", "12 refused", "B. 四环素",
        "怎么办 22 %", "发热三天怎么处理", "出血量",
    ):  # fmt: skip
        assert expected in text, expected


def test_what_deserves_a_look_is_said_in_sentences(tmp_path: Path) -> None:
    text = text_with(tmp_path)
    for expected in (
        "3 training rows repeat an evaluation question, 2 exactly and 1 nearly: dropped.",
        "12 of 5,000 records cannot be used as given",
        "6 rows with thinking lost.",
        "Of 4 options the first is right in 32 % of questions, by chance 25 %",
        "“yes” has 61 % of the rows, “maybe” 5 rows.",
        "3 pairs of like questions with different answers.",
        "jsonl.gz: 年份, source.",
    ):
        assert expected in text, expected


def test_three_clean_rows_make_a_short_page(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    bare = {"total": 3, "kept": 3, "quarantined": 0, "dropped": 0}
    (folder / "report.json").write_text(json.dumps(bare))
    path = write_data_report(folder)
    text = text_of(path)
    assert "Nothing in this data stands out." in text
    assert path.read_text(encoding="utf-8").count("<h2>") == 1


@pytest.mark.parametrize(
    ("section", "heading"),
    [
        ("quarantine", "Quarantined: unreadable or invalid"), ("drops", "Dropped by a rule"),
        ("cleaning", "Cleaned"), ("lint", "Rendered rows that look wrong"), ("lengths", "Lengths in tokens"),
        ("profile", "What the rows are"), ("packing", "Batches"), ("sources", "Where it came from"),
        ("negatives", "Rejected answers"), ("match", "Training texts against"), ("sample", "token by token"),
    ],
)  # fmt: skip
def test_an_empty_section_is_not_shown(tmp_path: Path, section: str, heading: str) -> None:
    assert heading in text_with(tmp_path / "full")
    empty = type(REPORT[section])()
    assert heading not in text_with(tmp_path / "empty", **{section: empty})


def test_too_few_texts_to_compare_are_said_without_numbers_that_are_not_there(tmp_path: Path) -> None:
    few = dict.fromkeys(MATCH) | {"verdict": "Too few texts to compare.", "differs": False, "typical": None}
    assert "Too few texts to compare." in text_with(tmp_path, match=few)


def poisoned(value: Any, evil: str) -> Any:
    """`value` with `evil` behind every text in it, keys of free choice included."""
    if isinstance(value, dict):
        named = {"quarantine", "drops", "cleaning", "lint"}
        return {
            key: {f"{name}{evil}": poisoned(entry, evil) for name, entry in part.items()}
            if key in named
            else poisoned(part, evil)
            for key, part in value.items()
        }
    if isinstance(value, list):
        return [poisoned(part, evil) for part in value]
    return value + evil if isinstance(value, str) else value


def test_text_from_a_record_is_shown_never_obeyed(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>\"'&{{ 7*7 }}"
    path = write_data_report(write_data(tmp_path / "data", **poisoned(copy.deepcopy(REPORT), evil)))
    page = path.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "49" not in re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    assert text_of(path).count("alert('x')") > 40


def test_the_page_needs_no_other_file_and_no_script(tmp_path: Path) -> None:
    page = write_data_report(write_data(tmp_path / "data")).read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|<img|https?://|url\(|@import|src=|onclick", page)
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page


def test_a_sample_shows_which_tokens_carry_loss_and_where_lines_break(tmp_path: Path) -> None:
    page = write_data_report(write_data(tmp_path / "data")).read_text(encoding="utf-8")
    assert '<span class="free">&lt;｜begin▁of▁sentence｜&gt;</span>' in page
    assert '<span class="loss"> 出血量</span>' in page
    assert '<span class="loss" title="weight 0.5">，因为</span>' in page
    assert '<span class="free">↵\n</span>' in page


def test_the_middle_of_a_long_sample_is_left_out_and_counted() -> None:
    tokens = shown([(f"t{n}", 0.0) for n in range(HEAD + TAIL + 7)])
    assert len(tokens) == HEAD + TAIL + 1
    assert "7 tokens not shown" in tokens[HEAD][0]
    assert tokens[-1][0] == f"t{HEAD + TAIL + 6}"


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 10**7), max_size=40))
def test_shares_are_of_all_and_the_rest_stands_together(counts: dict[str, int]) -> None:
    bars = shares(counts, most=5)
    assert len(bars) <= 6
    assert sum(bar.size for bar in bars) == pytest.approx(100 if any(counts.values()) else 0)


def test_fates_of_no_record_are_left_out() -> None:
    bars = fates({"total": 8, "kept": 6, "quarantined": 0, "dropped": 2})
    assert [(bar.kind, bar.size, bar.says) for bar in bars] == [("kept", 75.0, "6"), ("dropped", 25.0, "2")]


def test_histogram_bars_are_relative_to_the_highest_and_keep_empty_bins() -> None:
    bars = histogram({"edges": [1, 2, 4, 1024], "counts": [5, 0, 10]})
    assert [bar.size for bar in bars] == [50, 0, 100]
    assert bars[2].says == "4 to 1,024: 10"


def test_places_beyond_the_fifth_have_names_too() -> None:
    assert [bar.name for bar in places([1] * 6)][-2:] == ["fifth", "6th"]


def test_a_profile_of_one_language_says_so_in_a_line(tmp_path: Path) -> None:
    text = text_with(tmp_path, profile=PROFILE | {"languages": {"zh": 1.0}})
    assert "Language: Chinese in all sampled rows." in text
