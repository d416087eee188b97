"""Cards by name with their published numbers, and this machine as it measures itself."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

GIB = 2**30

COMPUTE_EFFICIENCY = 0.4
"""Share of the published peak that a step's products reach: a guess, and the weakest number of a time."""
TRAFFIC_EFFICIENCY = 0.7
"""The same for reading the weights: a guess."""
HERE_EFFICIENCY = 0.6
"""Share of one timed product's rate that whole steps reach on a CPU: 0.54 to 0.7 in docs/benchmarks.md."""

CONTEXT_BYTES = round(0.7 * GIB)
"""CUDA context, libraries and cuBLAS's workspace on a GPU: a guess."""
KERNEL_BYTES = 30_000_000
"""Code and scratch that a process touches only once it computes, on a CPU: seen in every run."""


@dataclass(frozen=True)
class Card:
    """One accelerator as its data sheet has it; FLOP/s are dense and accumulate in float32."""

    memory: int  # bytes
    half: float  # FLOP/s in bfloat16 or float16
    single: float  # FLOP/s in float32
    bandwidth: float  # bytes/s


CARDS: Mapping[str, Card] = MappingProxyType(
    {
        "A10": Card(24 * GIB, 125e12, 31.2e12, 600e9),
        "RTX 4090": Card(24 * GIB, 165.2e12, 82.6e12, 1008e9),
        "L40S": Card(48 * GIB, 362e12, 91.6e12, 864e9),
        "A100 80GB": Card(80 * GIB, 312e12, 19.5e12, 2039e9),
        "H100 SXM": Card(80 * GIB, 989e12, 67e12, 3350e9),
        "H20": Card(96 * GIB, 148e12, 44e12, 4000e9),
        "H200": Card(141 * GIB, 989e12, 67e12, 4800e9),
    }
)
"""NVIDIA's data sheets."""

SIZES = (12, 24, 48, 80)
"""Memory of common cards, GiB."""


def seconds_on(card: Card, flops: float, traffic: float, dtype: torch.dtype) -> float:
    """Time of that many FLOPs and bytes of weights read on one card; whichever takes longer counts."""
    peak = card.single if dtype == torch.float32 else card.half
    return max(flops / (peak * COMPUTE_EFFICIENCY), traffic / (card.bandwidth * TRAFFIC_EFFICIENCY))


def rate_here(dtype: torch.dtype, width: int = 1024, rows: int = 512) -> float:
    """FLOP/s of one product of that width on this machine's device, the best of five, on the wall clock."""
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    left = torch.ones(rows, width, dtype=dtype, device=device)
    right = torch.ones(width, width, dtype=dtype, device=device)
    best = min(_seconds(left, right) for _ in range(5))
    return 2.0 * rows * width * width / best


def process_bytes() -> int:
    """Resident memory of an interpreter with all that training imports, measured in one of its own."""
    code = f"import seektune.training.loop; from {__name__} import resident; print(resident())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) + KERNEL_BYTES


def process_now() -> int:
    """The same of this process, to be asked before it loads a model; on a GPU what its context takes."""
    return CONTEXT_BYTES if torch.cuda.is_available() else resident() + KERNEL_BYTES


def measured_peak() -> int:
    """The most memory this process has held so far, bytes: on its GPU if it has one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved() + CONTEXT_BYTES
    return resident("VmHWM")


def resident(key: str = "VmRSS") -> int:
    """Resident memory of this process, bytes: now, or with VmHWM the most so far."""
    status = Path("/proc/self/status")
    if not status.exists():  # macOS reports bytes, and only the most so far
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(line for line in status.read_text().splitlines() if line.startswith(f"{key}:"))
    return int(line.split()[1]) * 1024


def _seconds(left: torch.Tensor, right: torch.Tensor) -> float:
    started = time.perf_counter()
    float((left @ right)[0, 0])  # waits for a GPU
    return time.perf_counter() - started
