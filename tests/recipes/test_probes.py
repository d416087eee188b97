"""What diagnose asks the model."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from broken_runs import classified, configured, trained
from rich.console import Console

from seektune import runlog
from seektune.diagnosis.trials import Reference
from seektune.recipes.probes import Probed, judge_labels, probed
from seektune.recipes.run_folder import read_run

LLAMA = {"base_model": "tiny/llama", "lora": {"target_modules": ["all-linear"]}}
QUIET = Console(file=io.StringIO())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty steps at a rate so high that nothing is learnt."""
    folder = tmp_path_factory.mktemp("probes")
    return trained(
        configured(folder, classified(60), **LLAMA, training={"learning_rate": 0.5, "num_train_epochs": 5})
    )


def test_rates_targets_and_gradients_are_tried_and_the_rate_is_blamed(run: Path) -> None:
    config, steps = read_run(run), runlog.read(run / "metrics.jsonl")
    found = probed(config, steps, 10, QUIET)
    assert {"rates", "targets", "gradient_shares", "loss"} <= set(found.numbers)
    assert {trial["name"] for trial in found.numbers["targets"]} == {
        "configured",
        "attention",
        "dense",
        "all",
    }
    assert all(len(trial["losses"]) == 2 for trial in found.numbers["targets"])
    assert found.causes[0].kind == "learning_rate_too_high"


def test_a_budget_too_small_for_trials_is_said(run: Path) -> None:
    found = probed(read_run(run), runlog.read(run / "metrics.jsonl"), 0, QUIET)
    assert "rates" not in found.numbers
    assert any("--budget" in note for note in found.notes)


def test_labels_are_not_judged_by_an_adapter_that_learnt_nothing() -> None:
    found = Probed()
    judge_labels([[]], Reference(2.0, 1.9, 100), found)
    assert found.causes == []
    assert found.notes == ["Labels not judged: the adapter has not learnt enough to tell."]
