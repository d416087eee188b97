"""`seektune prepare` shows what became of the data, and one sample as the model will see it."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console
from tiny_runs import tiny_config, write_rows

from seektune.recipes import prepare


def shown(folder: Path, **data: object) -> tuple[str, Path]:
    page = io.StringIO()
    config = tiny_config(folder, data={"train": [str(folder / "rows.jsonl")], **data})
    ready = prepare.run(config, console=Console(file=page, width=120))
    return page.getvalue(), ready.folder


def test_it_prints_every_file_a_summary_and_a_sample(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", count=20)
    with rows.open("a") as file:
        file.write('{"text": "no label"}\n')
    printed, folder = shown(tmp_path, pack_tokens=500)
    assert "classification" in printed
    assert "20 rows to train on, 0 held out" in printed
    assert "bad: 1" in printed
    assert "% full" in printed
    assert "in ⟦ ⟧ is learned" in printed
    assert "⟦Cardiology" in printed
    assert "Case 0" in printed
    assert str(folder / "report.html") in printed.replace("\n", "")
    assert {path.name for path in folder.iterdir()} == {
        *("prepared", "quarantine.jsonl", "dropped.jsonl", "samples.txt", "report.json", "report.html")
    }


def test_in_a_terminal_what_is_learned_is_coloured(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", count=6)
    _, folder = shown(tmp_path)
    sample = json.loads((folder / "report.json").read_text(encoding="utf-8"))["sample"]
    text = prepare.sample(sample)
    learned = [text.plain[span.start : span.end] for span in text.spans if "on" in str(span.style)]
    assert "".join(learned).startswith("Cardiology")


def test_a_long_sample_shows_its_beginning_and_its_answer() -> None:
    pieces = [[f"{number} ", 0] for number in range(2000)] + [["answer", 1]]
    text = prepare.sample({"row": "a:1", "pieces": pieces}).plain
    assert "0 1 2 " in text
    assert text.endswith("1999 answer")
    assert " … " in text


def test_nothing_is_said_of_what_did_not_happen(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl", count=6)
    printed, _ = shown(tmp_path)
    assert not [word for word in ("dropped:", "cleaned:", "bad:", "! ") if word in printed]
