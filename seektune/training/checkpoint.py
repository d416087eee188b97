"""Checkpoints on disk: whole or absent, every byte accounted for, no pickle.

`checkpoints/step-N/` has parameters.safetensors, optimizer.safetensors, state.json and, written last,
manifest.json with size and sha256 of the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from seektune.errors import TrainingError
from seektune.training.state import State

PARAMETERS, OPTIMIZER = "parameters.safetensors", "optimizer.safetensors"
VALUES, MANIFEST = "state.json", "manifest.json"
FORMAT = 2
"""Raised when the meaning of what is written changes."""


def write(state: State, root: Path, *, eval_loss: float | None = None) -> Path:
    """Write `root`/step-N in one move and return it; a folder of that name is replaced.

    After a power failure it is there as a whole or not at all. Raises OSError where it cannot be written,
    and leaves nothing behind then.
    """
    folder = root / f"step-{state.step}"
    draft = root / f".{folder.name}-new"
    sweep(root)
    draft.mkdir(parents=True)
    try:
        _fill(draft, state, eval_loss)
        if folder.exists():
            folder.rename(_hidden(folder))
        draft.rename(folder)
        _sync(root)
        _sync(root.parent)
    finally:
        sweep(root)
    return folder


def remove(folder: Path) -> None:
    """Remove a checkpoint; killed on the way, it leaves no damaged one."""
    folder.rename(_hidden(folder))
    sweep(folder.parent)


def sweep(root: Path) -> None:
    """Remove what killed processes left of checkpoints being written or removed."""
    for path in root.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def read(folder: Path) -> State:
    """The state that `write` put into `folder`; raises TrainingError saying what is wrong with it."""
    if reason := damage(folder):
        raise TrainingError(f"{folder} cannot be resumed from: {reason}")
    try:
        return State(load_file(folder / PARAMETERS), load_file(folder / OPTIMIZER), values_of(folder))
    except (SafetensorError, OSError, ValueError) as error:
        raise TrainingError(f"{folder} cannot be resumed from: {error}") from None


def newest(root: Path) -> tuple[State | None, list[str]]:
    """The state of the newest checkpoint in `root` that verifies; what was passed over, with the reasons."""
    passed: list[str] = []
    for folder in reversed(folders(root)):
        try:
            return read(folder), passed
        except TrainingError as error:
            passed.append(str(error))
    return None, passed


def folders(root: Path) -> list[Path]:
    """The checkpoints in `root`, damaged ones too, oldest first."""
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if re.fullmatch(r"step-[1-9]\d*", path.name)), key=step_of)


def step_of(folder: Path) -> int:
    """The N of step-N."""
    return int(folder.name.removeprefix("step-"))


def damage(folder: Path) -> str | None:
    """Why `folder` is no whole checkpoint; None where every byte is as it was written."""
    try:
        text = (folder / MANIFEST).read_bytes().decode()
        manifest = json.loads(text)
        if set(manifest) != {PARAMETERS, OPTIMIZER, VALUES} or text != _canonical(manifest):
            return f"{MANIFEST} is damaged"
        for name, facts in manifest.items():
            if (reason := _difference(folder / name, facts)) is not None:
                return f"{name} {reason}"
        values = values_of(folder)
        if values["format"] != FORMAT:
            return f"it has format {values['format']}, this version reads {FORMAT}"
        if values["step"] != step_of(folder):
            return f"it holds step {values['step']}: the folder was renamed"
    except OSError as error:
        return f"{Path(error.filename or folder).name}: {error.strerror}"
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"
    return None


def values_of(folder: Path) -> dict[str, Any]:
    """The plain values of a checkpoint."""
    values: dict[str, Any] = json.loads((folder / VALUES).read_text(encoding="utf-8"))
    return values


def _fill(draft: Path, state: State, eval_loss: float | None) -> None:
    """Write the files, the manifest last, and wait until they are on the disk."""
    for name, tensors in ((PARAMETERS, state.parameters), (OPTIMIZER, state.optimizer)):
        try:
            save_file(dict(tensors), draft / name)
        except SafetensorError as error:  # what it makes of a disk that is full
            raise OSError(f"{name}: {error}") from None
    values = {**state.values, "format": FORMAT, "eval_loss": eval_loss}
    (draft / VALUES).write_text(json.dumps(values), encoding="utf-8")
    manifest = {name: _facts(draft / name) for name in (PARAMETERS, OPTIMIZER, VALUES)}
    (draft / MANIFEST).write_text(_canonical(manifest), encoding="utf-8")
    for path in (*draft.iterdir(), draft):
        _sync(path)


def _hidden(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}-old")


def _difference(path: Path, facts: dict[str, Any]) -> str | None:
    size = path.stat().st_size
    if size != facts["bytes"]:
        return f"has {size} bytes instead of {facts['bytes']}"
    return None if _facts(path) == facts else "is not as it was written (its sha256 differs)"


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _canonical(manifest: dict[str, Any]) -> str:
    """The one text of a manifest: any other byte in the file is damage."""
    return json.dumps(manifest, indent=2, sort_keys=True) + "\n"


def _sync(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
