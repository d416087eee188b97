"""The run folder: which files it has, and what rerunning into it means."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from seektune.config.run import RunConfig, changed_keys, dump_config, load_config
from seektune.errors import ConfigError, TrainingError
from seektune.runlog import cut, write_json
from seektune.training.checkpoint import folders, newest, read
from seektune.training.state import State

RECORDS = ("environment", "inventory", "memory", "evaluation", "diagnosis")
FILES = ("run.yaml", "metrics.jsonl", "report.html", *(f"{name}.json" for name in RECORDS))
FOLDERS = ("checkpoints", "adapter", "tracking")  # data/ is made anew by whoever needs other data
REPORTED = ("seektune", "torch", "transformers", "accelerate", "safetensors", "numpy")


@dataclass(frozen=True)
class Opened:
    """What a run folder holds of the run: all of it, a state to go on from, or nothing yet."""

    finished: bool = False
    state: State | None = None
    passed: tuple[str, ...] = ()  # newer checkpoints that cannot be used, with the reasons


def open_run(config: RunConfig, *, overwrite: bool = False, resume: str = "auto") -> Opened:
    """What `config.output_dir` holds of the run; nothing is written yet.

    A run that was begun goes on from the newest checkpoint that verifies (`resume` auto), from the one that
    `resume` names, or starts again (never). Raises ConfigError listing the keys in which a run already
    there differs, TrainingError when it has checkpoints and none can be used. A run that ended before its
    first step (a misspelt target, say) holds nothing to lose and makes way.
    """
    folder = config.output_dir
    recorded = folder / "run.yaml"
    state: State | None = None
    passed: tuple[str, ...] = ()
    if recorded.exists() and not overwrite:
        changed = changed_keys(load_config(recorded), config)
        if changed and (folder / "metrics.jsonl").exists():
            listed = "\n  ".join(changed)
            raise ConfigError(
                f"{folder} holds another run; --overwrite replaces it, output_dir=ANOTHER keeps both; it "
                f"differs:\n  {listed}"
            )
        if not changed and is_finished(folder):
            return Opened(finished=True)
        if not changed:
            state, passed = to_resume(folder, resume)
    if state is None and resume not in ("auto", "never"):
        raise ConfigError(f"--resume {resume}: {folder} holds no run that could go on")
    return Opened(state=state, passed=passed)


def begin_run(config: RunConfig, state: State | None) -> None:
    """Make `config.output_dir` ready to go on from `state`, or for a new run: what was there makes way.

    To be called when nothing is left that could be wrong with the new one.
    """
    folder = config.output_dir
    if state is None:
        clear(folder)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "environment.json", environment())
    else:
        cut(folder / "metrics.jsonl", state.step)
    (folder / "run.yaml").write_text(dump_config(config), encoding="utf-8")


def to_resume(folder: Path, resume: str) -> tuple[State | None, tuple[str, ...]]:
    """The state that `resume` (auto, never or a checkpoint folder) asks for, and what was passed over."""
    root = folder / "checkpoints"
    if resume == "never":
        return None, ()
    if resume == "auto":
        state, passed = newest(root)
        if passed and state is None:
            listed = "\n  ".join(passed)
            raise TrainingError(f"no checkpoint can be used; --resume never starts again:\n  {listed}")
        return state, tuple(passed)
    if Path(resume).resolve().parent != root.resolve():
        names = ", ".join(str(path) for path in folders(root)) or "none yet"
        raise ConfigError(f"--resume {resume} is no checkpoint of this run; it has: {names}")
    return read(Path(resume)), ()


def is_finished(folder: Path) -> bool:
    """Whether training ended there: the adapter folder is written last, in one rename."""
    return (folder / "adapter" / "seektune.json").exists()


def read_run(folder: Path | str) -> RunConfig:
    """The configuration of an existing run folder; raises ConfigError when it is none."""
    path = Path(folder) / "run.yaml"
    if not path.exists():
        raise ConfigError(f"{folder} is not a run folder: it has no run.yaml; `seektune train` makes one")
    return load_config(path)


def read_finished(folder: Path | str) -> RunConfig:
    """The configuration of a run that has its adapter; raises ConfigError when it is none."""
    config = read_run(folder)
    if not is_finished(Path(folder)):
        raise ConfigError(f"{folder} has no adapter yet: finish it with `seektune train {folder}/run.yaml`")
    return config


def clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else that may lie in the folder."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)


def environment() -> dict[str, Any]:
    """Versions and machine, for `environment.json`."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "versions": {name: installed(name) for name in REPORTED},
    }


def installed(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
