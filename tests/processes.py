"""Runs of several real processes on the CPU: gloo, as `accelerate launch` and torchrun start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ACCELERATE = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
TWO = ["--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no",
       "--main_process_port=0"]  # fmt: skip
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

ENDING = """
import os, sys
import torch.distributed
if torch.distributed.is_initialized():
    torch.distributed.destroy_process_group()
sys.stdout.flush()
os._exit(0)  # a script's globals keep gloo's threads, which may abort while the interpreter shuts down
"""


def train_in_two(config: Path, *arguments: str) -> list[str]:
    """The command line of the guide."""
    return [*ACCELERATE, *TWO, "-m", "seektune", "train", str(config), *arguments]


def started(command: Sequence[str], environment: Mapping[str, str] = ENVIRONMENT) -> subprocess.Popen[str]:
    """A launcher under way, standard error within its output."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )


def ended(launcher: subprocess.Popen[str], seconds: float = 300) -> str:
    """The output of a launcher that must end on its own; after `seconds` it is killed with its processes."""
    try:
        return launcher.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        for process in (*workers(launcher).values(), launcher.pid):
            os.kill(process, 9)
        raise


def launched(command: Sequence[str], environment: Mapping[str, str] = ENVIRONMENT) -> str:
    """Run to the end, which must be a good one; the output."""
    launcher = started(command, environment)
    output = ended(launcher)
    assert launcher.returncode == 0, output
    return output


def run_script(folder: Path, script: str, *arguments: str, processes: int = 2) -> str:
    """Run a script in several processes; it fails where an assertion in one of them does."""
    path = folder / "worker.py"
    path.write_text(script + ENDING, encoding="utf-8")
    return launched([*TORCHRUN, f"--nproc-per-node={processes}", str(path), *arguments])


def run_with_rows(folder: Path, rows: Any, script: str, *arguments: str, processes: int = 2) -> Any:
    """What processes that read rows.json in `folder`, their first argument, leave there in out.json."""
    folder.mkdir(exist_ok=True)
    fields = [(s.input_ids, s.targets, s.row_id, s.weight) for s in rows.samples]
    (folder / "rows.json").write_text(json.dumps(fields))
    run_script(folder, script, str(folder), *arguments, processes=processes)
    return json.loads((folder / "out.json").read_text())


def workers(launcher: subprocess.Popen[str]) -> dict[int, int]:
    """Process ids by rank."""
    found = {}
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    for process in children.read_text().split() if children.exists() else ():
        lines = Path(f"/proc/{process}/environ").read_bytes().decode().split("\0")
        variables = dict(line.split("=", 1) for line in lines if "=" in line)
        if "RANK" in variables:
            found[int(variables["RANK"])] = int(process)
    return found


def wait_for_step(launcher: subprocess.Popen[str], log: Path, step: int, seconds: float = 120) -> None:
    """Return when a run that is under way has logged `step`."""
    until = time.monotonic() + seconds
    while not log.exists() or len(log.read_text().splitlines()) < step:
        assert launcher.poll() is None, launcher.communicate()[0]
        assert time.monotonic() < until, "no step was logged"
        time.sleep(0.02)
