"""Training rows and held-out rows of a configuration."""

from __future__ import annotations

from pathlib import Path

from tiny_runs import tiny_config, write_rows

from seektune.recipes.examples import labels_of, read_examples


def test_a_fraction_is_held_out_and_no_row_is_in_both(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    train, held_out = read_examples(tiny_config(tmp_path))
    assert (len(train), len(held_out)) == (30, 10)
    assert not {row.row_id for row in train} & {row.row_id for row in held_out}


def test_a_held_out_file_shares_the_labels_of_the_training_rows(tmp_path: Path) -> None:
    rows = str(write_rows(tmp_path / "rows.jsonl"))
    write_rows(tmp_path / "held.jsonl", count=1)
    config = tiny_config(tmp_path, data={"train": [rows], "eval": {"path": str(tmp_path / "held.jsonl")}})
    train, held_out = read_examples(config)
    assert held_out[0].options == train[0].options == ("Cardiology", "Dermatology", "Ophthalmology")


def test_without_eval_nothing_is_held_out(tmp_path: Path) -> None:
    rows = str(write_rows(tmp_path / "rows.jsonl", count=4))
    train, held_out = read_examples(tiny_config(tmp_path, data={"train": [rows]}))
    assert (len(train), held_out) == (4, [])


def test_rows_without_options_have_no_labels() -> None:
    assert labels_of([]) is None
