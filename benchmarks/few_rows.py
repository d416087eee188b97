"""The products of a step of decoding by rows: torch's linear beside ours, on all weights of the 135M model.

Float32 on one thread. Each weight is read once a pass, so that none stays in a cache; sides take passes in
turn, the median counts. `blocks` is ours without numba, `ours` with it.

    python benchmarks/few_rows.py [--passes 15]

Last line, JSON: torch's milliseconds over ours by number of rows, and the gigabytes of weights read a second.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from measure import finish, log, machine
from torch import Tensor

from seektune.ops import few_rows_linear as module

SHAPES = ((960, 576), (576, 576), (3072, 576), (576, 1536))
"""Outputs and inputs of a layer's joint products; thirty layers and a head of 49,152 outputs."""
ROWS = (1, 2, 3, 4, 6, 8, 12, 16)


def main() -> None:
    """Time a pass over all weights for each number of rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passes", type=int, default=15)
    passes = parser.parse_args().passes
    torch.set_num_threads(1)
    weights = [torch.randn(shape) for _ in range(30) for shape in SHAPES] + [torch.randn(49_152, 576)]
    read = sum(weight.nbytes for weight in weights) / 1e9
    log(f"{read:.2f} GB of weights, float32, one thread, milliseconds a pass")
    ratios, speeds = {}, {}
    with torch.inference_mode():
        for rows in ROWS:
            spent = sides(weights, rows, passes)
            log(f"{rows:>3} rows  " + "  ".join(f"{side} {1e3 * s:6.1f}" for side, s in spent.items()))
            ratios[rows] = round(spent["torch"] / spent["ours"], 2)
            speeds[rows] = round(read / spent["ours"], 1)
    finish({"ratio_by_rows": ratios, "gb_per_second": speeds, "machine": machine()})


def sides(weights: list[Tensor], rows: int, passes: int) -> dict[str, float]:
    """Median seconds of a pass: torch, ours without numba, ours."""
    x = {width: torch.randn(rows, width) for width in (576, 1536)}
    streams = module.streams

    def whole(product: Callable[[Tensor, Tensor], Tensor], compiled: bool = True) -> float:
        module.streams = streams if compiled else lambda weight, rows: False
        start = time.process_time()
        for weight in weights:
            product(x[weight.shape[1]], weight)
        module.streams = streams
        return time.process_time() - start

    spent: dict[str, list[float]] = {"torch": [], "blocks": [], "ours": []}
    for _ in range(passes):
        spent["torch"].append(whole(module.few_rows_linear_reference))
        spent["blocks"].append(whole(module.few_rows_linear, compiled=False))
        spent["ours"].append(whole(module.few_rows_linear))
    return {side: median(times) for side, times in spent.items()}


if __name__ == "__main__":
    main()
