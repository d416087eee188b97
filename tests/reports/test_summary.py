"""A run folder read for its report, finished or not."""

from __future__ import annotations

from pathlib import Path

from run_folders import write_run

from seektune.reports.summary import summarise


def test_a_finished_run_is_read_whole(tmp_path: Path) -> None:
    run = summarise(write_run(tmp_path / "moe"))
    assert run.name == "moe"
    assert [step.step for step in run.steps] == list(range(1, 21))
    assert run.steps[-1].eval_loss == 0.3
    assert run.evaluations[0].tuned.accuracy == 0.625
    assert (run.trainable, run.tokens, run.seconds) == (60, 2000, 40.0)
    assert run.memory["error"] == -0.25
    assert run.config == "base_model: tiny/deepseek_v3\n"


def test_what_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    run = summarise(tmp_path)
    assert (run.steps, run.inventory, run.evaluations, run.config) == ((), (), (), "")


def test_a_last_line_cut_short_by_a_killed_run_is_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "killed")
    metrics = folder / "metrics.jsonl"
    metrics.write_text(metrics.read_text()[:-20])
    assert len(summarise(folder).steps) == 19
