"""The report is one file that stands alone, says what the run says, and runs nothing a run wrote."""

from __future__ import annotations

import re
from pathlib import Path

from pages import text_of
from run_folders import write_run

from seektune.reports.html import write_report


def test_the_page_says_what_the_run_found(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "moe")
    text = text_of(write_report(folder, verdicts=["Tuned is better."]))
    for expected in ("triage", "Tuned is better.", "62.5 %", "+17.5", "< 0.001", "1.23 %", "2 of 2", "5,000"):
        assert expected in text
    assert "Router unchanged" in text
    assert "2,000 tokens" in text
    assert "base_model: tiny/deepseek_v3" in text


def test_predicted_memory_stands_beside_measured(tmp_path: Path) -> None:
    text = text_of(write_report(write_run(tmp_path / "moe")))
    assert "4.00 GiB measured, 3.00 GiB predicted (-25 %)" in text
    assert "weights 2,048.0" in text
    assert "file" not in text.split("predicted part")[1].split("Made with")[0]


def test_the_page_needs_no_other_file_and_no_script(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "moe")).read_text(encoding="utf-8")
    assert not re.search(r"<script|<link|<img|https?://|url\(|@import|src=", page)
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page


def test_text_from_a_run_is_shown_never_obeyed(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    folder = write_run(tmp_path / "moe", task=evil, model=evil)
    (folder / "run.yaml").write_text(f'prompt_prefix: "{evil} 问题"', encoding="utf-8")
    path = write_report(folder, verdicts=[evil])
    assert "<script" not in path.read_text(encoding="utf-8")
    assert text_of(path).count(evil) == 4
    assert "问题" in text_of(path)


def test_a_failed_check_is_seen(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "moe")
    inventory = folder / "inventory.json"
    inventory.write_text(
        inventory.read_text().replace('"router_unchanged": true', '"router_unchanged": false')
    )
    assert "✗ Router unchanged" in text_of(write_report(folder))


def test_an_unfinished_run_has_a_page_too(tmp_path: Path) -> None:
    assert "was not evaluated" in text_of(write_report(tmp_path))


def test_several_runs_stand_side_by_side_in_one_page(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, model=name) for name in ("moe", "dense")]
    path = write_report(tmp_path, runs, verdicts=["First.", "Second."])
    assert path == tmp_path / "report.html"
    text = text_of(path)
    assert text.index("First.") < text.index("Second.")
    assert text.count("held-out rows") == 2
