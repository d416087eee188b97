"""Real processes that are stopped, killed and out of disk: the next one ends as if nothing had happened."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import tiny_config, write_rows

from seektune.config.run import RunConfig, dump_config
from seektune.errors import ConfigError, TrainingError
from seektune.recipes import train
from seektune.runlog import Log
from seektune.training import checkpoint

LORA = {"r": 4, "target_modules": ["attention", "routed"], "lora_dropout": 0.2}
TRAINING = {"max_steps": 6, "learning_rate": 1e-2, "save_steps": 2, "logging_steps": 1, "eval_steps": 3}
ADAPTER = "adapter/adapter_model.safetensors"


def config_in(folder: Path, name: str, lora: dict[str, Any] = LORA, **training: Any) -> RunConfig:
    if not (folder / "rows.jsonl").exists():
        write_rows(folder / "rows.jsonl")
    return tiny_config(folder, name, lora=lora, training=TRAINING | training)


def run(config: RunConfig, **options: Any) -> str:
    """Train in this process; what was printed."""
    page = io.StringIO()
    train.run(config, console=Console(file=page, width=300), **options)
    return page.getvalue()


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The run's metrics without its wall times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def same_run(one: Path, other: Path) -> None:
    assert (one / ADAPTER).read_bytes() == (other / ADAPTER).read_bytes()
    assert log_of(one) == log_of(other)
    assert (one / "inventory.json").read_bytes() == (other / "inventory.json").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = config_in(tmp_path_factory.mktemp("whole"), "run")
    run(config)
    return config.output_dir


def test_what_is_due_the_best_and_the_last_step_are_saved_and_the_newest_kept(whole: Path) -> None:
    folders = checkpoint.folders(whole / "checkpoints")
    assert [checkpoint.step_of(folder) for folder in folders] == [3, 4, 6]  # 2 and 4 were due, 3 was the best
    assert [checkpoint.damage(folder) for folder in folders] == [None] * 3


STAGES = [
    {"layers": [0, 0.5], "target_modules": ["attention"], "learning_rate": 1e-2, "max_steps": 3},
    {"layers": [0.5, 1], "learning_rate": 1e-3, "num_train_epochs": 0.1},
]


def test_a_run_in_stages_says_before_it_starts_what_each_of_them_trains(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.jsonl")
    config = tiny_config(tmp_path, lora=LORA, training={"stages": STAGES, "logging_steps": 1})
    said = run(config)
    first, second = (
        said.index("stage 1 of 2: layers 0 of 2, steps 1-3, "),
        said.index("stage 2 of 2: layers 1"),
    )
    assert first < said.index("trains", first) < second < said.index("step 1/4")
    assert [line["learning_rate"] for line in log_of(config.output_dir)][::3] == [1e-2, 1e-3]
    written = json.loads((config.output_dir / "inventory.json").read_text())["stages"]
    assert [stage["checks"]["first_update"] for stage in written] == [True, True]
    assert "is finished" in run(config)  # run.yaml reads back as the same configuration


def stopped_run(
    config: RunConfig, step: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGTERM
) -> str:
    """Train in this process, which gets a signal once `step` is logged; what was printed."""
    append = Log.append

    def stopping(log: Log, metrics: Any) -> None:
        append(log, metrics)
        if metrics.step == step:
            os.kill(os.getpid(), number)

    page = io.StringIO()
    with monkeypatch.context() as patch:
        patch.setattr(Log, "append", stopping)
        with pytest.raises(SystemExit) as stopped:
            train.run(config, console=Console(file=page, width=300))
    assert stopped.value.code == 128 + number
    return page.getvalue()


@pytest.mark.parametrize("step", [1, 4, 6])
def test_ctrl_c_saves_the_step_and_the_next_run_goes_on(
    step: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(tmp_path, "run")
    printed = stopped_run(config, step, monkeypatch, signal.SIGINT)
    assert f"go on with: seektune train {tmp_path / 'run' / 'run.yaml'}" in printed
    assert checkpoint.damage(tmp_path / "run" / "checkpoints" / f"step-{step}") is None
    assert f"going on after step {step}" in run(config)
    same_run(config.output_dir, whole)


def test_a_log_that_ran_ahead_of_the_checkpoint_is_cut_back(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill leaves it: steps logged after the last checkpoint, a line cut short, files half written."""
    config = config_in(tmp_path, "run")
    stopped_run(config, 4, monkeypatch)
    log = config.output_dir / "metrics.jsonl"
    ahead = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)[4]
    log.write_text(log.read_text() + ahead + '{"step": 6, "los')
    (config.output_dir / "checkpoints" / ".step-6-new").mkdir()
    run(config)
    same_run(config.output_dir, whole)
    assert not list((config.output_dir / "checkpoints").glob(".*"))


def test_a_damaged_checkpoint_is_passed_over_by_name(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(tmp_path, "run")
    stopped_run(config, 5, monkeypatch)
    damaged = config.output_dir / "checkpoints" / "step-5" / checkpoint.OPTIMIZER
    damaged.write_bytes(damaged.read_bytes()[:-5])
    printed = run(config)
    assert "passed over:" in printed
    assert "step-5 cannot be resumed from: optimizer.safetensors has" in printed
    assert "going on after step 4" in printed
    same_run(config.output_dir, whole)


def test_a_disk_that_fails_costs_no_step_and_is_an_error_at_the_end(whole: Path, tmp_path: Path) -> None:
    config = config_in(tmp_path, "run")
    config.output_dir.mkdir()
    (config.output_dir / "checkpoints").write_text("a file is in the way")
    with pytest.raises(TrainingError, match=r"the adapter is whole, but no checkpoint could be written to"):
        run(config)
    same_run(config.output_dir, whole)
    assert (config.output_dir / "report.html").exists()


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "300"}


def launched(config: RunConfig) -> subprocess.Popen[bytes]:
    """`python -m seektune train` in a process of its own; what it prints goes to a file."""
    path = config.output_dir.with_suffix(".yaml")
    path.write_text(dump_config(config))
    command = [sys.executable, "-m", "seektune", "train", str(path)]
    with printed_by(config).open("w") as page:
        return subprocess.Popen(command, env=ENVIRONMENT, stdout=page, stderr=subprocess.STDOUT)


def printed_by(config: RunConfig) -> Path:
    return config.output_dir.with_suffix(".txt")


def lines_in(log: Path) -> int:
    return log.read_text().count("\n") if log.exists() else 0


def await_a_step(process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the process has logged a step of its own, or has ended."""
    before = lines_in(log)
    while process.poll() is None and not 0 < lines_in(log) != before:
        time.sleep(0.01)


def test_sigterm_saves_and_prints_the_command_that_goes_on(tmp_path: Path) -> None:
    config = config_in(tmp_path, "run", max_steps=2000, save_steps=500)
    process = launched(config)
    await_a_step(process, config.output_dir / "metrics.jsonl")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 143
    printed = printed_by(config).read_text()
    assert f"go on with: seektune train {config.output_dir / 'run.yaml'}" in printed
    assert "Traceback" not in printed
    state, passed = checkpoint.newest(config.output_dir / "checkpoints")
    assert state is not None
    assert not passed
    assert state.step == lines_in(config.output_dir / "metrics.jsonl") < 2000


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_bit_for_bit_as_the_one_left_alone(tmp_path: Path) -> None:
    """Each of 7 runs is killed 4 times: at start, between two steps, in the middle of a save."""
    large = {**LORA, "r": 256}  # 9 MB a checkpoint, one at every step
    often: dict[str, Any] = {"lora": large, "max_steps": 16, "save_steps": 1, "eval_steps": 5}
    alone = config_in(tmp_path, "alone", **often)
    assert launched(alone).wait() == 0
    lines = (alone.output_dir / "metrics.jsonl").read_text().splitlines()
    a_step = statistics.median(json.loads(line)["seconds"] for line in lines)
    generator = random.Random(0)
    kills = saving = 0
    for number in range(7):
        config = config_in(tmp_path, f"run-{number}", **often)
        for kill in range(4):
            process = launched(config)
            if kill != number % 4 or number % 2:  # else already on its way to the first step
                await_a_step(process, config.output_dir / "metrics.jsonl")
            time.sleep(generator.uniform(0, 2 * a_step))
            process.kill()
            kills += process.wait() == -signal.SIGKILL
            saving += any((config.output_dir / "checkpoints").glob(".step-*"))
        process = launched(config)
        assert process.wait() == 0, printed_by(config).read_text()
        assert "passed over" not in printed_by(config).read_text()  # a kill leaves no damaged checkpoint
        same_run(config.output_dir, alone.output_dir)
    assert kills >= 25
    assert saving >= 1


def test_trackers_show_what_metrics_hold_and_no_step_twice_after_a_stop(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(tmp_path, "run", report_to=["tensorboard", "mlflow"])
    stopped_run(config, 4, monkeypatch)
    monkeypatch.undo()
    run(config)
    assert (whole / ADAPTER).read_bytes() == (config.output_dir / ADAPTER).read_bytes()

    events = EventAccumulator(str(config.output_dir / "tracking" / "tensorboard"))
    events.Reload()
    (losses,) = (config.output_dir / "tracking" / "mlflow").glob("*/*/metrics/train/loss")
    lines = log_of(config.output_dir)
    for key, name in {"train/loss": "loss", "train/grad_norm": "grad_norm", "eval/loss": "eval_loss"}.items():
        shown = [(event.step, event.value) for event in events.Scalars(key)]
        known = [(line["step"], line[name]) for line in lines if line[name] is not None]
        assert shown == [(step, pytest.approx(value, rel=1e-6)) for step, value in known]
    assert [int(line.split()[2]) for line in losses.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


def test_a_tracker_that_is_not_installed_is_an_error_before_anything_is_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seektune.training.trackers.find_spec", lambda name: None)
    config = config_in(tmp_path, "run", report_to="wandb")
    with pytest.raises(ConfigError, match=r"not installed: wandb; pip install 'seektune\[track\]'"):
        run(config)
    assert not config.output_dir.exists()


def test_determinism_and_chosen_layers_to_checkpoint_change_no_bit_on_a_cpu(
    tmp_path: Path, whole: Path
) -> None:
    config = config_in(
        tmp_path,
        "run",
        full_determinism=True,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"every_n_layers": 2},
    )
    run(config)
    assert (whole / ADAPTER).read_bytes() == (config.output_dir / ADAPTER).read_bytes()
