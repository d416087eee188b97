"""What every benchmark shares: one case per process, one thread, CPU-seconds, peak memory, one JSON line."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

Result = dict[str, Any]

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
}


def run_case(script: str | Path, *arguments: object, python: str | Path = sys.executable) -> Result:
    """Run `script` in a process of its own, on one thread; returns the JSON object it prints last.

    Raises RuntimeError with the end of its output where it fails.
    """
    command = [str(python), str(script), *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]  # some peers log behind it
    result: Result = json.loads(lines[-1])
    return result


def best_of(runs: int, script: str | Path, *arguments: object) -> Result:
    """The fastest of several runs of one case by `cpu_seconds`; `spread` lists all of them."""
    results = [run_case(script, *arguments) for _ in range(runs)]
    spread = [result["cpu_seconds"] for result in results]
    return min(results, key=lambda result: result["cpu_seconds"]) | {"spread": spread}


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU time of one call, in seconds: other processes on the machine do not count."""
    start = time.process_time()
    work()
    return time.process_time() - start


def peak_gb() -> float:
    """Largest resident memory of this process so far, in GB (10⁹ bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def gemm_rate(shapes: Sequence[tuple[int, int, int]], repeats: int = 5) -> float:
    """float32 FLOP per CPU-second of one thread over the products (m, k) x (k, n), each at its best."""
    import torch

    torch.set_num_threads(1)
    flop = seconds = 0.0
    for m, k, n in shapes:
        left, right, out = torch.randn(m, k), torch.randn(n, k).t(), torch.empty(m, n)
        multiply = partial(torch.mm, left, right, out=out)
        seconds += min(cpu_seconds(multiply) for _ in range(repeats))
        flop += 2 * m * k * n
    return flop / seconds


def machine() -> Result:
    """What the numbers depend on: processor, instruction set, versions."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    packages = ("torch", "transformers", "peft", "trl")
    return {
        "processor": model or platform.processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
    }


def log(text: str) -> None:
    """Progress for a reader, at once."""
    print(text, flush=True)


def finish(result: Result) -> None:
    """Print the benchmark's (or a case's) JSON object as the last line."""
    print(json.dumps(result), flush=True)
