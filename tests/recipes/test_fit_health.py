"""`seektune train` on a base with a broken embedding that one row reaches, under each policy."""

from __future__ import annotations

import io
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import ENVIRONMENT
from rich.console import Console
from tiny_runs import tiny_config, write_rows

from seektune.config.run import RunConfig, dump_config
from seektune.errors import NonFiniteError
from seektune.models.tiny import tiny_model
from seektune.recipes import train
from seektune.runlog import read
from seektune.training import checkpoint
from seektune.types import StepMetrics

ROW = 31  # the line that has a ~, whose embedding is broken
ADAPTER = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base, and rows of which one has the broken token."""
    folder = tmp_path_factory.mktemp("broken")
    model, tokenizer = tiny_model("deepseek_v3")
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("~").input_ids[0]] = math.nan
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    path = write_rows(folder / "rows.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    lines[ROW - 1] = lines[ROW - 1].replace(" hurts", " hurts ~")
    path.write_text("".join(lines))
    return folder


def config_in(folder: Path, name: str, health: dict[str, Any], **training: Any) -> RunConfig:
    settings = {
        "max_steps": 12, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "save_steps": 2,
        "lr_scheduler_type": "constant", "health": health,
    }  # fmt: skip
    return tiny_config(
        folder, name, base_model=str(folder / "base"), data={"train": [str(folder / "rows.jsonl")]},
        training=settings | training,
    )  # fmt: skip


def run(config: RunConfig) -> str:
    """Train in this process; what was printed."""
    page = io.StringIO()
    train.run(config, console=Console(file=page, width=300))
    return page.getvalue()


def log_of(config: RunConfig) -> tuple[StepMetrics, ...]:
    return read(config.output_dir / "metrics.jsonl")


@pytest.fixture(scope="module")
def stopped(folder: Path) -> tuple[RunConfig, str, int]:
    """A run with every policy as it is by default, from the command line: what it printed, its exit code."""
    config = config_in(folder, "stopped", {})
    (folder / "stopped.yaml").write_text(dump_config(config))
    command = [sys.executable, "-m", "seektune", "train", str(folder / "stopped.yaml")]
    done = subprocess.run(
        command, env=os.environ | ENVIRONMENT | {"COLUMNS": "300"}, capture_output=True, text=True
    )
    return config, done.stdout + done.stderr, done.returncode


def test_a_stop_is_an_error_that_names_row_place_cause_and_change(
    stopped: tuple[RunConfig, str, int],
) -> None:
    config, printed, code = stopped
    last = log_of(config)[-1]
    assert code == 2
    assert math.isnan(last.loss)
    assert not last.applied
    assert f"error: step {last.step}: non finite" in printed
    for part in (
        f"rows.jsonl:{ROW}",
        "model.embed_tokens.weight",
        "change: training.health.non_finite: skip",
    ):
        assert part in printed
    assert "Traceback" not in printed


def test_after_a_stop_the_change_that_was_named_goes_on_from_the_last_step(
    folder: Path, stopped: tuple[RunConfig, str, int]
) -> None:
    """As if the window had been skipped from the start, bit for bit."""
    last = log_of(stopped[0])[-1].step
    state, passed = checkpoint.newest(stopped[0].output_dir / "checkpoints")
    assert state is not None
    assert not passed
    assert state.step == last - 1 > 1
    mended = config_in(folder, "stopped", {"non_finite": "skip"})
    assert f"going on after step {last - 1}" in run(mended)
    skipping = config_in(folder, "skipping", {"non_finite": "skip"})
    printed = run(skipping)
    assert printed.count("the step's update was left out") == 1
    assert [(m.step, m.applied) for m in log_of(skipping) if m.step == last] == [(last, False), (last, True)]
    first, second = mended.output_dir / ADAPTER, skipping.output_dir / ADAPTER
    assert first.read_bytes() == second.read_bytes()
    assert [(m.step, m.applied) for m in log_of(mended)] == [(m.step, m.applied) for m in log_of(skipping)]


def test_a_rollback_returns_to_the_newest_checkpoint_at_a_lower_rate(folder: Path) -> None:
    """The row breaks the run each time: twice the rate is halved, then it stops; the log keeps it all."""
    config = config_in(folder, "rollback", {"non_finite": "rollback"})
    with pytest.raises(NonFiniteError, match="the run stops here"):
        run(config)
    seen = log_of(config)
    broken = seen[-1].step
    saved = broken - 2 + broken % 2  # every second step
    again = list(range(saved + 1, broken + 1))
    assert [m.step for m in seen] == [*range(1, broken + 1), *again, *again]
    rates = [m.learning_rate for m in seen if m.step == again[0]]
    assert rates == [1e-2, 5e-3, 2.5e-3]
    actions = [finding["action"] for m in seen for finding in m.findings]
    assert actions == ["rollback", "rollback", "stop"]
