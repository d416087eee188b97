"""The run folder: which files it has, and what rerunning into it means."""

from __future__ import annotations

import os
import platform
import shutil
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from seektune.config.run import RunConfig, dump_config, load_config, resolved
from seektune.errors import ConfigError
from seektune.runlog import write_json

FILES = ("run.yaml", "environment.json", "inventory.json", "metrics.jsonl", "evaluation.json", "report.html")
FOLDERS = ("checkpoints", "adapter")  # data/ is made anew by whoever needs other data
REPORTED = ("seektune", "torch", "transformers", "accelerate", "safetensors", "numpy")


def open_run(config: RunConfig, *, overwrite: bool = False) -> bool:
    """Make `config.output_dir` ready; False when this very run is already finished there.

    Raises ConfigError listing the keys in which a run already there differs. A run that ended before its
    first step (a misspelt target, say) holds nothing to lose and makes way.
    """
    folder = config.output_dir
    if overwrite:
        clear(folder)
    recorded = folder / "run.yaml"
    if recorded.exists():
        changed = changed_keys(load_config(recorded), config)
        if changed and (folder / "metrics.jsonl").exists():
            listed = "\n  ".join(changed)
            raise ConfigError(
                f"{folder} holds another run; --overwrite replaces it. What differs:\n  {listed}"
            )
        if not changed and is_finished(folder):
            return False
        clear(folder)  # begun and not finished: nothing in it can be continued yet
    folder.mkdir(parents=True, exist_ok=True)
    recorded.write_text(dump_config(config), encoding="utf-8")
    write_json(folder / "environment.json", environment())
    return True


def is_finished(folder: Path) -> bool:
    """Whether training ended there: the adapter folder is written last, in one rename."""
    return (folder / "adapter" / "seektune.json").exists()


def read_run(folder: Path | str) -> RunConfig:
    """The configuration of an existing run folder; raises ConfigError when it is none."""
    path = Path(folder) / "run.yaml"
    if not path.exists():
        raise ConfigError(f"{folder} is not a run folder: it has no run.yaml; `seektune train` makes one")
    return load_config(path)


def clear(folder: Path) -> None:
    """Remove what a run writes, and nothing else that may lie in the folder."""
    for name in FILES:
        (folder / name).unlink(missing_ok=True)
    for name in FOLDERS:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)


def changed_keys(before: RunConfig, after: RunConfig) -> list[str]:
    """Lines `key: old → new` for every key in which two configurations differ."""
    old, new = _leaves(resolved(before)), _leaves(resolved(after))
    return [
        f"{key}: {old.get(key)} → {new.get(key)}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]


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


def _leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: value
        for name, child in tree.items()
        for key, value in _leaves(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }
