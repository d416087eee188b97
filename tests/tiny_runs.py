"""Rows and configurations of runs that take seconds."""

from __future__ import annotations

import json
from pathlib import Path

from seektune.config.run import RunConfig
from seektune.config.section import validated


def write_rows(path: Path, count: int = 40) -> Path:
    """Classification rows whose label is told by one word."""
    words = {"heart": "Cardiology", "skin": "Dermatology", "eye": "Ophthalmology"}
    rows = [
        {"text": f"Case {index}: the {word} hurts", "label": label}
        for index, (word, label) in zip(range(count), list(words.items()) * count, strict=False)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tiny_config(folder: Path, name: str = "run", **changes: object) -> RunConfig:
    """Three steps of attention LoRA on tiny/deepseek_v3 over `folder/rows.jsonl`."""
    tree: dict[str, object] = {
        "base_model": "tiny/deepseek_v3",
        "output_dir": str(folder / name),
        "data": {"train": [str(folder / "rows.jsonl")], "eval": {"fraction": 0.25}},
        "lora": {"r": 4, "target_modules": ["attention", "routed"]},
        "training": {"max_steps": 3, "learning_rate": 1e-2, "save_steps": 2, "logging_steps": 1},
    }
    return validated(RunConfig, tree | changes, "test")
