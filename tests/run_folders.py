"""Run folders as a finished run leaves them, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SCORE = {"accuracy": 0.4, "low": 0.35, "high": 0.45}
EVALUATION = {
    "model": "toy",
    "task": "triage",
    "n": 400,
    "base": SCORE,
    "base_calibrated": {"accuracy": 0.45, "low": 0.4, "high": 0.5},
    "tuned": {"accuracy": 0.625, "low": 0.577, "high": 0.671},
    "majority": 0.125,
    "tfidf": 0.55,
    "p_value": 1e-9,
    "trainable_share": 0.0123,
    "router_unchanged": True,
    "cpu_seconds": 90.0,
}
ROW = {"group": "routed", "matched": 2, "existing": 2, "parameters": 5000, "trainable": 60, "bytes": 240}
IDLE = {"group": "dense", "matched": 0, "existing": 3, "parameters": 700, "trainable": 0, "bytes": 0}
CHECKS = {
    "table": True,
    "gradients": True,
    "first_update": True,
    "router_unchanged": True,
    "frozen_tensors": 9,
}
MEMORY = {
    "predicted_bytes": 3 * 2**30,
    "measured_bytes": 4 * 2**30,
    "error": -0.25,
    "parts": {"weights": 2 * 2**30, "optimiser": 2**30, "file": 0},
}


def step(number: int, loss: float, eval_loss: float | None = None) -> dict[str, Any]:
    return {
        "step": number,
        "epoch": number / 10,
        "loss": loss,
        "learning_rate": 1e-3,
        "grad_norm": 1.0,
        "tokens": 100,
        "seconds": 2.0,
        "eval_loss": eval_loss,
        "tokens_per_second": 50.0,
    }


def write_run(folder: Path, **evaluation: Any) -> Path:
    """A finished run of 20 steps; keyword arguments replace parts of its evaluation."""
    folder.mkdir(parents=True)
    lines = [step(n, 4.0 / n, 0.3 if n == 20 else None) for n in range(1, 21)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "run.yaml").write_text("base_model: tiny/deepseek_v3\n", encoding="utf-8")
    files = {
        "inventory.json": {"rows": [ROW, IDLE], "total_parameters": 5700, "checks": CHECKS},
        "evaluation.json": [EVALUATION | evaluation],
        "memory.json": MEMORY,
        "environment.json": {"created": "2026-01-02T03:04:05", "cpus": 2, "versions": {"torch": "2.13.0"}},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder
