"""What the machine can do, in words that fit what torch says of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from seektune.recipes import machine
from seektune.recipes.check import Check


def found() -> dict[str, Check]:
    return {check.name: check for check in machine.machine()}


def test_without_a_gpu_it_says_so_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    checks = found()
    assert checks["accelerators"].found == "none: everything runs on the CPU"
    assert checks["accelerators"].note.endswith("CUDA 13.0 and sees no device: look at nvidia-smi")
    assert checks["fp16"].found.startswith("needs a GPU")


def test_a_gpu_is_named_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "is_available": True,
        "device_count": 1,
        "mem_get_info": (60 * 2**30, 80 * 2**30),
        "get_device_capability": (7, 5),
        "get_device_name": "Tesla T4",
        "is_bf16_supported": False,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value, **__: value)
    checks = found()
    assert checks["cuda:0"][1:3] == ("Tesla T4, sm_75", "60.00 GiB free of 80.00 GiB")
    assert checks["bf16"].found == "emulated on this GPU: use training.fp16"
    assert checks["fp16"].found == "works"


def test_more_threads_than_processors_are_a_fault_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(machine, "processors", lambda: 2)
    threads = found()["threads"]
    assert not threads.fine
    assert threads.note.endswith("OMP_NUM_THREADS=2")


def test_processors_are_those_this_process_may_use() -> None:
    assert 1 <= machine.processors() <= (os.cpu_count() or 1)


def test_disks_are_those_of_runs_and_models_beside_what_they_must_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "hub_cache", lambda: tmp_path / "not" / "there" / "yet")
    runs, models = machine.disks(tmp_path / "runs")
    assert runs.found.endswith(f"free in {tmp_path}")
    assert models.found.endswith(f"free in {tmp_path}")
    assert "GiB with the defaults" in runs.note
    assert models.note == "the weights of DeepSeek-V2-Lite take 29.26 GiB"
    assert models.value is not None
    assert models.value > 0


def test_a_full_disk_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage)
    assert not any(check.fine for check in machine.disks(tmp_path))
