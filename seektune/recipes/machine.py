"""What this machine can do: processors and threads, accelerators, precision, memory, disks."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import torch

from seektune.config.adapter import AdapterSpec
from seektune.models.fetch import hub_cache
from seektune.models.outline import architecture, outline
from seektune.recipes.check import Check
from seektune.recipes.costs import size_of
from seektune.training.estimate import adapter_parameters, base_parameters
from seektune.training.footprint import FINE

EXAMPLE = "deepseek-ai/DeepSeek-V2-Lite"
"""The model that says how much a disk must hold."""

GROUPS = ("attention", "dense", "shared", "routed")

LITTLE = 2**30
"""Free bytes below which a disk is worth a word."""


def machine() -> list[Check]:
    """Python, processors, threads, memory, accelerators, and which precision pays here."""
    cards = [_card(index) for index in range(torch.cuda.device_count())]
    return [
        Check("python", platform.python_version()),
        _processors(),
        _threads(),
        _memory(),
        *(cards or [Check("accelerators", "none: everything runs on the CPU", _why_none(), value=0)]),
        _bf16(),
        _fp16(),
    ]


def disks(runs: Path = Path("runs")) -> list[Check]:
    """Free space where runs and models go, beside what DeepSeek-V2-Lite needs there."""
    outlined = outline(architecture(EXAMPLE))
    weights = 2 * sum(base_parameters(outlined).values())
    every = AdapterSpec(target_modules=GROUPS)
    small, large = (
        sum(adapter_parameters(outlined, spec).values()) * FINE for spec in (AdapterSpec(), every)
    )
    name = EXAMPLE.partition("/")[2]
    run = (
        f"a run keeps the adapter and up to 4 checkpoints three times its size: for {name} "
        f"{size_of(13 * small)} with the defaults, {size_of(13 * large)} with routed experts"
    )
    return [
        _disk("runs", runs.absolute(), run),
        _disk("models", hub_cache(), f"the weights of {name} take {size_of(weights)}"),
    ]


def _processors() -> Check:
    kind = torch.backends.cpu.get_cpu_capability() + (" with AMX" if _has_amx() else "")
    blas = "MKL" if torch.backends.mkl.is_available() else "no MKL"
    onednn = "oneDNN" if torch.backends.mkldnn.is_available() else "no oneDNN"
    count = processors()
    return Check("processors", f"{count}, {kind}, {blas}, {onednn}", value=count)


def processors() -> int:
    """Processors that this process may use; a container often sees more than it is given."""
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file() and (limit := quota.read_text().split())[0] != "max":
        seen = min(seen, max(1, round(int(limit[0]) / int(limit[1]))))
    return seen


def _threads() -> Check:
    threads, most = torch.get_num_threads(), processors()
    said = os.environ.get("OMP_NUM_THREADS")
    found = f"{threads}, {f'as OMP_NUM_THREADS={said} says' if said else 'chosen by torch'}"
    if threads > most:
        note = f"more than the processors that this process may use: OMP_NUM_THREADS={most}"
        return Check("threads", found, note, fine=False, value=threads)
    return Check("threads", found, value=threads)


def _memory() -> Check:
    path = Path("/proc/meminfo")
    if not path.is_file():
        return Check("memory", "unknown on this system")
    lines = dict(line.split(":") for line in path.read_text().splitlines())
    free, total = (int(lines[key].split()[0]) * 1024 for key in ("MemAvailable", "MemTotal"))
    return Check("memory", f"{size_of(free)} free of {size_of(total)}", value=free)


def _card(index: int) -> Check:
    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    found = f"{torch.cuda.get_device_name(index)}, sm_{major}{minor}"
    return Check(f"cuda:{index}", found, f"{size_of(free)} free of {size_of(total)}", value=free)


def _why_none() -> str:
    if torch.version.cuda is None:
        return "this torch is a build without CUDA"
    return f"torch is built for CUDA {torch.version.cuda} and sees no device: look at nvidia-smi"


def _bf16() -> Check:
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        found = "fast" if native else "emulated on this GPU: use training.fp16"
        return Check("bf16", found)
    return Check("bf16", "fast" if _has_amx() else "works, slower than float32")


def _fp16() -> Check:
    if torch.cuda.is_available():
        return Check("fp16", "works")
    return Check("fp16", "needs a GPU: use bf16 or float32 here")


def _has_amx() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())


def _disk(name: str, folder: Path, needs: str) -> Check:
    """Of the nearest folder above that exists."""
    there = next(path for path in (folder, *folder.parents) if path.is_dir())
    free = shutil.disk_usage(there).free
    return Check(name, f"{size_of(free)} free in {there}", needs, fine=free >= LITTLE, value=free)
