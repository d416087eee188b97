"""`seektune train` end to end on a tiny model."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from tiny_runs import tiny_config, write_rows

from seektune.config.run import load_config
from seektune.errors import ConfigError, DataError, ModelError, TargetError
from seektune.recipes import train


def test_a_run_leaves_exactly_the_files_of_a_run_folder(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir()) == sorted(
        ["run.yaml", "environment.json", "inventory.json", "metrics.jsonl", "memory.json", "checkpoints",
         "adapter", "data", "evaluation.json", "report.html"]
    )  # fmt: skip
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["step-2", "step-3"]


def test_what_was_trained_is_printed_and_recorded(finished: Path) -> None:
    printed = (finished.parent / "printed.txt").read_text(encoding="utf-8")
    assert "routed" in printed
    assert "30 rows to train on, 10 held out" in printed
    inventory = json.loads((finished / "inventory.json").read_text(encoding="utf-8"))
    assert inventory["checks"]["router_unchanged"] is True
    assert {row["group"] for row in inventory["rows"] if row["trainable"]} == {"attention", "routed"}


def test_every_step_is_logged_and_the_last_is_evaluated(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[-1]["eval_loss"] > 0


def test_evaluation_is_a_list_of_one_schema(finished: Path) -> None:
    (found,) = json.loads((finished / "evaluation.json").read_text(encoding="utf-8"))
    assert found["n"] == 10
    assert found["router_unchanged"] is True
    assert found["tuned"]["low"] <= found["tuned"]["accuracy"] <= found["tuned"]["high"]


def test_the_same_run_again_says_it_is_finished(finished: Path) -> None:
    page = io.StringIO()
    assert train.run(load_config(finished / "run.yaml"), console=Console(file=page, width=200)) == finished
    assert "is finished" in page.getvalue()


def test_another_run_in_the_same_folder_is_refused(finished: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.max_steps: 3 → 4"):
        train.run(load_config(finished / "run.yaml", ["training.max_steps=4"]))


def test_a_run_that_is_to_be_replaced_stays_until_the_new_one_can_begin(finished: Path) -> None:
    files = [path for path in finished.rglob("*") if path.is_file() and "data" not in path.parts[-2:]]
    before = {path: path.read_bytes() for path in files}
    for wrong, error in (("lora.target_modules=routd", TargetError), ("base_model=tiny/lama", ModelError)):
        with pytest.raises(error):
            train.run(
                load_config(finished / "run.yaml", [wrong]), overwrite=True, console=Console(quiet=True)
            )
    assert {path: path.read_bytes() for path in files} == before


def test_rows_over_the_length_limit_are_counted_and_named(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", count=8)
    with rows.open("a") as file:
        file.write(json.dumps({"text": "long " * 100, "label": "Cardiology"}) + "\n")
    page = io.StringIO()
    config = tiny_config(tmp_path, data={"train": [str(rows)], "max_length": 200})
    train.run(config, console=Console(file=page, width=200))
    assert f"dropped: 1 too long (in {config.output_dir / 'data/dropped.jsonl'})" in page.getvalue()
    (left_out,) = (config.output_dir / "data/dropped.jsonl").read_text().splitlines()
    assert "rows.jsonl:9" in left_out


def test_an_empty_training_file_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(DataError, match=r"rows\.jsonl holds no records"):
        train.run(tiny_config(tmp_path))
