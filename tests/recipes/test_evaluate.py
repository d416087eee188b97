"""`seektune evaluate` on a finished run."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from tiny_runs import tiny_config

from seektune.errors import ConfigError
from seektune.recipes import evaluate, run_folder, train
from seektune.recipes.evaluate import spread


def test_evaluating_again_from_the_files_gives_the_same_accuracies(finished: Path) -> None:
    (before,) = json.loads((finished / "evaluation.json").read_text(encoding="utf-8"))
    page = io.StringIO()
    again = evaluate.run(finished, console=Console(file=page, width=120))
    assert again is not None
    assert {key: again.to_json()[key] for key in ("base", "tuned", "n", "tfidf")} == {
        key: before[key] for key in ("base", "tuned", "n", "tfidf")
    }
    assert all(name in page.getvalue() for name in ("majority class", "TF-IDF", "with the adapter"))


def test_a_run_without_an_adapter_names_the_command_that_finishes_it(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    run_folder.begin_run(config, None)
    with pytest.raises(ConfigError, match="finish it with `seektune train"):
        evaluate.run(config.output_dir)


def test_open_text_has_no_accuracy_and_says_so(tmp_path: Path) -> None:
    answer = {"role": "assistant", "content": "Here."}
    questions = [{"role": "user", "content": f"Where does it hurt, case {index}?"} for index in range(8)]
    rows = "".join(json.dumps({"messages": [question, answer]}) + "\n" for question in questions)
    (tmp_path / "rows.jsonl").write_text(rows)
    page = io.StringIO()
    train.run(tiny_config(tmp_path), console=Console(file=page, width=120))
    assert "No accuracy: the rows are open text." in page.getvalue()
    assert not (tmp_path / "run" / "evaluation.json").exists()


def test_the_router_is_unknown_where_there_is_no_inventory(tmp_path: Path) -> None:
    assert evaluate.router_unchanged(tmp_path) is None


def test_rows_are_spread_evenly() -> None:
    assert spread(range(10), 5) == [0, 2, 4, 6, 8]
    assert spread(range(3), 5) == [0, 1, 2]
