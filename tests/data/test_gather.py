"""Files become rows in order, each file with its own format, and mistakes are counted by their kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seektune.config.data import DataConfig
from seektune.config.section import validated
from seektune.data.gather import Gathered, Gatherer, kind_of, parts
from seektune.data.ledger import Ledger
from seektune.errors import DataError
from seektune.types import Example, Row

ASKED = {"question": "Which organ pumps blood?", "answer": "the heart"}
CHAT = {"messages": [{"role": "user", "content": "Hi  "}, {"role": "assistant", "content": "Hello"}]}


def gather(folder: Path, *sources: Any, **changes: Any) -> tuple[Gathered, list[Row]]:
    config = validated(DataConfig, {"train": list(sources)} | changes, "data")
    seen: list[Row] = []
    folder.mkdir(exist_ok=True)
    with Ledger(folder) as ledger:
        found = Gatherer(config, ledger).gather("train", config.train, folder / "rows.arrow", seen.append)
    return found, seen


def test_every_file_has_its_own_format_and_account(write: Callable[..., Path], tmp_path: Path) -> None:
    found, seen = gather(
        tmp_path / "out", str(write([ASKED, CHAT, ASKED], "a.jsonl")), str(write([CHAT], "b.jsonl"))
    )
    assert list(found.rows) == seen
    assert [(a.format, a.kept, a.quarantined) for a in found.accounts] == [
        ("alpaca", 2, 1),
        ("messages", 1, 0),
    ]
    assert [found.account_of(row).file[-7:] for row in range(3)] == ["a.jsonl", "a.jsonl", "b.jsonl"]
    assert found.accounts[0].encoding == "utf-8"


def test_rows_are_cleaned_and_unread_columns_are_named(write: Callable[..., Path], tmp_path: Path) -> None:
    found, _ = gather(tmp_path / "out", str(write([CHAT | {"source": "forum"}])))
    row = found.rows[0]
    assert isinstance(row, Example)
    assert row.messages[0].content == "Hi"
    assert found.accounts[0].unread == {"source"}


def test_the_labels_of_all_files_are_known_before_the_first_row(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    files = [
        write([{"text": f"a rash {n}", "label": label}], f"{label}.jsonl") for n, label in enumerate("bca")
    ]
    found, _ = gather(tmp_path / "out", *map(str, files))
    assert {row.options for row in found.rows if isinstance(row, Example)} == {("a", "b", "c")}
    named, _ = gather(tmp_path / "named", str(files[0]), labels=["z", "b"])
    assert [row.options for row in named.rows if isinstance(row, Example)] == [("z", "b")]


def test_a_document_gives_its_question_answer_pairs(tmp_path: Path) -> None:
    page = tmp_path / "faq.md"
    page.write_text("## What is a fever?\n\nA raised temperature.\n\n## When to call?\n\nAbove 39.5 °C.\n")
    found, _ = gather(tmp_path / "out", {"path": str(page), "format": "document"})
    assert [row.messages[-1].content for row in found.rows if isinstance(row, Example)] == [
        "A raised temperature.",
        "Above 39.5 °C.",
    ]


def test_a_document_without_pairs_is_dropped_and_one_that_is_no_text_quarantined(tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("Nothing is asked here.\n")
    found, _ = gather(tmp_path / "out", {"path": str(tmp_path / "plain.txt"), "format": "document"})
    assert (found.accounts[0].dropped, found.accounts[0].total) == (1, 1)
    (tmp_path / "pages.jsonl").write_text('{"text": 7}\n')
    found, _ = gather(tmp_path / "more", {"path": str(tmp_path / "pages.jsonl"), "format": "document"})
    assert (found.accounts[0].quarantined, found.accounts[0].total) == (1, 1)


def test_a_long_broken_beginning_does_not_hide_the_records_after_it(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write([ASKED, ASKED])
    path.write_bytes(b'{"question" "a"}\n' * 300 + path.read_bytes())
    found, seen = gather(tmp_path / "out", str(path))
    assert (len(seen), found.accounts[0].quarantined) == (2, 300)


def test_a_file_of_an_unknown_shape_is_refused(write: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="colour"):
        gather(tmp_path / "out", str(write([{"colour": "red"}] * 3)))


def test_a_file_without_one_readable_record_is_all_in_quarantine(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"question" "a"}\n{"question" "b"}\n')
    found, seen = gather(tmp_path / "out", str(path))
    assert (seen, found.accounts[0].quarantined) == ([], 2)
    reasons = [
        json.loads(line)["reason"] for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()
    ]
    assert all("JSON" in reason for reason in reasons)


def test_a_glob_is_one_source_per_file(write: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("b", "a"):
        write([ASKED], f"{name}.jsonl")
    config = validated(DataConfig, {"train": str(tmp_path / "*.jsonl")}, "data")
    assert [Path(str(part.path)).name for part in parts(config.train[0])] == ["a.jsonl", "b.jsonl"]


def test_equal_mistakes_have_one_kind() -> None:
    first = kind_of("answer_idx is 'F', but the options are A, B")
    assert first == kind_of("answer_idx is 'G', but the options are A, B")
    assert kind_of("not JSON at column 17") == kind_of("not JSON at column 3")
