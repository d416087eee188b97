"""`accelerate launch -m seektune train` with two processes: one run, which ends as that of one process."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import (
    ACCELERATE,
    ended,
    launched,
    run_script,
    started,
    train_in_two,
    wait_for_step,
    workers,
)
from safetensors.torch import load_file
from sharded_runs import WORKER, options
from tiny_runs import tiny_config, write_rows
from torch.testing import assert_close

from seektune.config.run import dump_config, load_config
from seektune.recipes import evaluate, train

SETTINGS = {"max_steps": 6, "learning_rate": 1e-2, "save_steps": 2, "logging_steps": 1, "eval_steps": 3}
MODELS = {
    "tiny/deepseek_v3": ["attention", "routed"],
    "tiny/llama": ["all-linear"],
}


def configured(folder: Path, name: str, model: str = "tiny/deepseek_v3", **changes: Any) -> Path:
    """A YAML whose step sees four batches of three rows, in however many processes."""
    write_rows(folder / "rows.jsonl")
    lora = {"r": 4, "target_modules": MODELS[model], "lora_dropout": changes.pop("lora_dropout", 0.0)}
    training = SETTINGS | {"per_device_train_batch_size": 3} | changes
    path = folder / f"{name}.yaml"
    path.write_text(
        dump_config(tiny_config(folder, name, base_model=model, lora=lora, training=training)),
        encoding="utf-8",
    )
    return path


def log_of(run: Path) -> list[dict[str, Any]]:
    """The run's metrics without its wall times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "second" not in key} for line in lines]


def adapter_of(run: Path) -> dict[str, Any]:
    weights: dict[str, Any] = load_file(run / "adapter" / "adapter_model.safetensors")
    return weights


def alike(two: Path, one: Path) -> None:
    """The same loss curve to 1e-5 and the same adapter, and only the first process has written."""
    for together, alone in zip(log_of(two), log_of(one), strict=True):
        for key, value in alone.items():
            assert together[key] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)
    assert_close(adapter_of(two), adapter_of(one), rtol=1e-4, atol=1e-5)
    for name in ("inventory.json", "evaluation.json"):
        ours, theirs = (json.loads((run / name).read_text()) for run in (two, one))
        if name == "evaluation.json":
            ours, theirs = ours[0]["tuned"], theirs[0]["tuned"]
        assert ours == theirs
    assert sorted(path.name for path in two.iterdir()) == sorted(path.name for path in one.iterdir())


@pytest.mark.parametrize("model", ["tiny/deepseek_v3", pytest.param("tiny/llama", marks=pytest.mark.slow)])
def test_two_processes_train_what_one_does_and_the_first_alone_speaks(model: str, tmp_path: Path) -> None:
    one = train.run(load_config(configured(tmp_path, "one", model, gradient_accumulation_steps=4)))
    output = launched(train_in_two(configured(tmp_path, "two", model, gradient_accumulation_steps=2)))
    alike(tmp_path / "two", one)
    assert [output.count(line) for line in ("step 6/6", "rows to train on", "report: ")] == [1, 1, 1]


def interrupted(config: Path, step: int, rank: int | None, number: int) -> str:
    """Launch in two processes and send a signal to one rank, or to the launcher; its output."""
    launcher = started(train_in_two(config))
    wait_for_step(launcher, config.with_suffix("") / "metrics.jsonl", step)
    os.kill(launcher.pid if rank is None else workers(launcher)[rank], number)
    before = time.monotonic()
    output = ended(launcher)
    assert time.monotonic() - before < 60  # of gloo's 30 minutes and the launcher's 30 seconds
    assert launcher.returncode not in (0, None)
    return output


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_the_run_with_one_clear_error_and_the_next_launch_ends_as_if_it_had_lived(
    rank: int, tmp_path: Path
) -> None:
    settings = {"max_steps": 30, "lora_dropout": 0.2}
    launched(train_in_two(configured(tmp_path, "whole", **settings)))
    config = configured(tmp_path, "killed", **settings)
    output = interrupted(config, 9, rank, signal.SIGKILL)
    assert output.count("error: another process of this run has ended") <= 1  # or the launcher was quicker
    assert "RuntimeError" not in output
    assert not (tmp_path / "killed" / "adapter").exists()
    output = launched(train_in_two(config))
    assert "going on after step" in output
    assert "resumed elsewhere" not in output
    assert log_of(tmp_path / "killed") == log_of(tmp_path / "whole")
    assert_close(adapter_of(tmp_path / "killed"), adapter_of(tmp_path / "whole"), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "number"), [(1, signal.SIGTERM), (None, signal.SIGTERM), (None, signal.SIGINT)]
)
def test_a_signal_to_any_process_ends_all_after_one_saved_step(
    rank: int | None, number: int, tmp_path: Path
) -> None:
    settings = {"max_steps": 30, "save_steps": 100, "eval_steps": 100, "lora_dropout": 0.2}
    launched(train_in_two(configured(tmp_path, "whole", **settings)))
    config = configured(tmp_path, "stopped", **settings)
    output = interrupted(config, 9, rank, number)
    assert output.count("stopping: this step") <= 1
    assert output.count(f"go on with: seektune train {tmp_path / 'stopped' / 'run.yaml'}") == 1
    (saved,) = (tmp_path / "stopped" / "checkpoints").iterdir()
    assert saved.name == f"step-{len(log_of(tmp_path / 'stopped'))}"
    launched(train_in_two(config))
    assert log_of(tmp_path / "stopped") == log_of(tmp_path / "whole")
    assert_close(adapter_of(tmp_path / "stopped"), adapter_of(tmp_path / "whole"), rtol=0, atol=0)


@pytest.mark.slow
def test_one_process_goes_on_where_two_stopped_and_says_what_differs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configured(tmp_path, "run", max_steps=20, save_steps=1)
    interrupted(config, 3, 1, signal.SIGKILL)
    before = log_of(tmp_path / "run")
    train.run(load_config(config))
    (line,) = [record.getMessage() for record in caplog.records if "resumed" in record.getMessage()]
    assert "processes 2 → 1" in line
    log = log_of(tmp_path / "run")
    assert [line["step"] for line in log] == [*range(1, 21)]
    resumed_at = next(i for i, line in enumerate(log) if i >= len(before) or line != before[i])
    assert log[resumed_at]["epoch"] - log[resumed_at - 1]["epoch"] == pytest.approx(1 / 10)  # half a step


@pytest.mark.slow
def test_an_error_of_the_first_process_is_said_once_and_ends_all(tmp_path: Path) -> None:
    config = configured(tmp_path, "run")
    (tmp_path / "rows.jsonl").write_text("")
    launcher = started(train_in_two(config))
    output = ended(launcher)
    assert launcher.returncode == 1
    assert output.count("error: ") == 1
    assert "rows.jsonl holds no records" in output


COMMAND = """
import sys
from pathlib import Path
from seektune.cli import app
app(["train", sys.argv[1]], standalone_mode=False)
threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in threads if name.startswith("pt_gloo")], threads
"""


@pytest.mark.slow
def test_no_thread_of_the_group_is_left_to_abort_a_process_that_ends(tmp_path: Path) -> None:
    run_script(tmp_path, COMMAND, str(configured(tmp_path, "two", gradient_accumulation_steps=2)))


SHARDED = """
from rich.console import Console
from seektune.config.run import load_config
from seektune.recipes import train
shard()
train.run(load_config(folder / "two.yaml"), console=Console(width=300))
"""


@pytest.mark.slow
def test_a_sharded_run_leaves_the_same_adapter_and_its_accuracy_to_evaluate(tmp_path: Path) -> None:
    one = train.run(load_config(configured(tmp_path, "one", gradient_accumulation_steps=4)))
    configured(tmp_path, "two", gradient_accumulation_steps=2)
    (tmp_path / "rows.json").write_text("[]")
    output = run_script(tmp_path, WORKER + SHARDED, str(tmp_path), json.dumps(options()))
    two = tmp_path / "two"
    assert f"its accuracy: seektune evaluate {two}" in output
    assert not (two / "evaluation.json").exists()
    evaluate.run(two)
    (two / "memory.json").write_bytes((one / "memory.json").read_bytes())  # predicted for a whole model
    alike(two, one)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "zero2"])
def test_the_launch_files_train_on_two_gpus_what_one_does(kind: str, tmp_path: Path) -> None:
    if kind == "zero2":
        pytest.importorskip("deepspeed")
    config = configured(tmp_path, "one", gradient_accumulation_steps=4)
    launched([sys.executable, "-m", "seektune", "train", str(config)], {"CUDA_VISIBLE_DEVICES": "0"})
    config = configured(tmp_path, "two", gradient_accumulation_steps=2)
    file = Path(__file__).parents[2] / "examples" / "launch" / f"{kind}_1x8.yaml"
    line = ["--config_file", str(file), "--num_processes", "2", "-m", "seektune", "train", str(config)]
    launched([*ACCELERATE, *line], {})
    for together, alone in zip(log_of(tmp_path / "two"), log_of(tmp_path / "one"), strict=True):
        assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert_close(adapter_of(tmp_path / "two"), adapter_of(tmp_path / "one"), rtol=1e-3, atol=1e-4)
