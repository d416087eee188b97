"""What adapters cost an engine, and a server under swaps: throughput, stalls, mix-ups, memory.

Cost: the 16 requests of `generate.py`, float32, one thread, r = 16 on all linears: on the engine of a model
without slots, and on one with 16 adapters resident, for nobody, for one adapter and for 16 different ones.
The sides take a step in turn, the median round counts. `dense` is the 135M model, `wide` a Llama of two
layers, 2,048 wide.

Stall: four streams on the 135M model over HTTP, first alone, then with an adapter swapped every 50 ms.

Load: closed-loop callers of a tiny model over HTTP, whole answers, streams, slow readers and callers who
leave, with a swap every 50 ms; every adapter signs its answers.

    python benchmarks/serve.py [--requests 10000] [--rounds 2]

Last line, JSON: `adapter_cost`, `mixed16_cost` = share of base throughput lost on the 135M model,
`wide_…` on the wide one; `swap_stall_ms_p99` = by how much the 99th percentile of the time between two tokens
of a stream under swaps exceeds `step_ms_p50`, the median without, `publish_ms_p99` = what publishing itself
kept the engine from its next step; `requests`, `wrong`, `dropped` of the load
and `rss_growth`, the server's memory after its last tenths over that after its first ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
from generate import RANK, random_adapters, requests
from measure import Result, finish, log, machine, run_case
from prometheus_client.parser import text_string_to_metric_families
from serve_load import Load, process, signing_adapter, swap_root

SEQUENCES = 16
LINEARS = ["attention", "dense"]
SWAP_EVERY = 0.05


def main() -> None:
    """Run every part in a process of its own; with --case, be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--case", choices=("dense", "wide", "stall", "load"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case == "stall":
        finish(stall())
    elif options.case == "load":
        finish(load(options.requests))
    elif options.case:
        finish(costs(options.case, options.rounds))
    else:
        finish(whole(options.requests, options.rounds))


def whole(requests: int, rounds: int) -> Result:
    """All parts in turn."""
    parts = {}
    for case in ("dense", "wide", "stall", "load"):
        parts[case] = run_case(__file__, "--case", case, "--requests", requests, "--rounds", rounds)
        log(f"{case}: {json.dumps(parts[case])}")
    dense, wide = parts["dense"], parts["wide"]
    return {
        "adapter_cost": dense["adapter_cost"],
        "mixed16_cost": dense["mixed16_cost"],
        "wide_adapter_cost": wide["adapter_cost"],
        "wide_mixed16_cost": wide["mixed16_cost"],
        **parts["stall"],
        **parts["load"],
        "cpu_seconds": {case: parts[case]["cpu_seconds"] for case in ("dense", "wide")},
        "machine": machine(),
    }


def costs(case: str, rounds: int) -> Result:
    """CPU-seconds of the same requests for nobody, one adapter and 16, beside an engine without slots."""
    import torch

    from seektune.adapters.slots import Slots
    from seektune.config.engine import EngineConfig
    from seektune.generation.engine import Engine
    from seektune.models.load import load_model

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        base = dense_folder() if case == "dense" else wide_folder(Path(scratch) / "base")
        folders = random_adapters(base, Path(scratch) / "adapters", SEQUENCES, LINEARS)
        config = EngineConfig(enable_prefix_caching=False)  # every round computes its prompts
        nobody: Sequence[str | None] = [None] * SEQUENCES
        sides = {"plain": (Engine(load_model(base, dtype="float32"), config=config), nobody)}
        for side in ("base", "one", "mixed"):  # a model each: engines do not share one and its slots
            loaded = load_model(base, dtype="float32")
            slots = Slots(loaded, max_slots=SEQUENCES, max_rank=RANK)
            names = [slots.publish(slots.prepare(folder, folder.name)) for folder in folders]
            keys = {"base": nobody, "one": names[:1] * SEQUENCES, "mixed": names}[side]
            sides[side] = (Engine(loaded, slots, config=config), keys)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    vocabulary = loaded.model.config.vocab_size
    asked = [(tuple(token % vocabulary for token in prompt), n) for prompt, n in requests(SEQUENCES)]
    answered(sides, [(prompt[:16], 2) for prompt, _ in asked])  # warms up
    for _ in range(rounds):
        for side, taken in answered(sides, asked).items():
            seconds[side].append(round(taken, 3))

    def cost(side: str) -> float:
        shares = [1 - plain / other for plain, other in zip(seconds["plain"], seconds[side], strict=True)]
        return round(statistics.median(shares), 4)

    return {
        "adapter_cost": cost("one"),
        "mixed16_cost": cost("mixed"),
        "base_cost": cost("base"),
        "cpu_seconds": seconds,
    }


def answered(
    sides: Mapping[str, tuple[Any, Sequence[str | None]]], asked: Sequence[tuple[tuple[int, ...], int]]
) -> dict[str, float]:
    """CPU-seconds of each side's answers, in turn by steps: a slow minute is everyone's."""
    from seektune.generation.request import Request, Sampling

    for engine, adapters in sides.values():
        for index, ((prompt, length), adapter) in enumerate(zip(asked, adapters, strict=True)):
            sampling = Sampling(max_tokens=length, ignore_eos=True)
            engine.submit(Request(id=str(index), prompt=prompt, sampling=sampling, adapter=adapter))
    seconds = dict.fromkeys(sides, 0.0)
    while any(engine.has_work for engine, _ in sides.values()):
        for side, (engine, _) in sides.items():
            start = time.process_time()
            engine.step()
            seconds[side] += time.process_time() - start
    return seconds


def stall() -> Result:
    """Time between two tokens of a stream, alone and under swaps, in milliseconds."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        random_adapters(dense_folder(), root / "swapped", 3, LINEARS)
        arguments = ["--set", f"serving.adapter_root={root}", "--dtype", "float32"]
        with process(str(dense_folder()), arguments) as (_, url):
            quiet, _ = asyncio.run(streams(url, swapping=False))
            swapped, swaps = asyncio.run(streams(url, swapping=True))
            metrics = httpx.get(f"{url}/metrics").text
    step = statistics.median(quiet)
    return {
        "swap_stall_ms_p99": round(percentile(swapped, 99) - step, 2),
        "step_ms_p50": round(step, 2),
        "step_ms_p99": round(percentile(quiet, 99), 2),
        "swapped_step_ms_p50": round(statistics.median(swapped), 2),
        "swapped_step_ms_p99": round(percentile(swapped, 99), 2),
        "publish_ms_p99": published_p99(metrics),
        "stall_swaps": swaps,
    }


async def streams(url: str, swapping: bool, callers: int = 4, tokens: int = 200) -> tuple[list[float], int]:
    """Milliseconds between the tokens of all streams, and how many swaps there were meanwhile."""
    async with httpx.AsyncClient(base_url=url, timeout=300) as client:
        name = (await client.get("/v1/models")).json()["data"][0]["id"]
        await stream(client, name, 0, 2)
        reading = asyncio.gather(*(stream(client, name, number, tokens) for number in range(callers)))
        swaps = 0
        while swapping and not reading.done():
            version = str(swaps % 3)
            answer = await client.post("/v1/adapters", json={"name": "swapped", "version": version})
            answer.raise_for_status()
            swaps += 1
            await asyncio.sleep(SWAP_EVERY)
        return [gap for gaps in await reading for gap in gaps], swaps


async def stream(client: httpx.AsyncClient, model: str, number: int, tokens: int) -> list[float]:
    """Milliseconds between the tokens of one stream, after its first ones."""
    settings = {"max_tokens": tokens, "ignore_eos": True, "temperature": 0, "stream": True}
    body = {"model": model, "prompt": f"Story number {number}. Once upon a time"} | settings
    times = []
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                times.append(time.perf_counter())
    return [1000 * (later - earlier) for earlier, later in pairwise(times[8:])]


def published_p99(metrics: str) -> float:
    """An upper bound of what 99 of 100 publications kept the engine from its next step, in milliseconds."""
    (swaps,) = (one for one in text_string_to_metric_families(metrics) if one.name == "seektune_swap_seconds")
    buckets = [(float(s.labels["le"]), s.value) for s in swaps.samples if s.name.endswith("_bucket")]
    return round(next(1000 * most for most, count in buckets if count >= 0.99 * buckets[-1][1]), 3)


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of them do not exceed."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def load(count: int) -> Result:
    """Callers of a server of a tiny model under swaps: mix-ups, lost answers, memory."""
    names = ("x", "y", "z")
    with tempfile.TemporaryDirectory() as scratch:
        signed = {letter: signing_adapter(Path(scratch), letter) for letter in "AB"}
        letters = swap_root(Path(scratch) / "root", signed, names)
        # Float64, so that the base's own answer does not hang on who shares its batch.
        arguments = ["--set", f"serving.adapter_root={scratch}/root", "--dtype", "float64"]
        with process("tiny/llama", arguments) as (server, url):
            tally = asyncio.run(Load(url, server.pid, names, letters, "tiny/llama").run(count))
    return {
        "requests": tally.requests,
        "wrong": len(tally.wrong),
        "dropped": len(tally.dropped),
        "rss_growth": round(statistics.mean(tally.memory[-2:]) / statistics.mean(tally.memory[1:3]), 4),
        "swaps": tally.swaps,
    }


def dense_folder() -> Path:
    """The 135M model's folder."""
    from seektune.quickstart.assets import base_folder

    folder: Path = base_folder("dense")
    return folder


def wide_folder(folder: Path) -> Path:
    """A Llama of two layers, 2,048 wide, with random weights and a small vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=512,
        hidden_size=2048,
        intermediate_size=5632,
        num_hidden_layers=2,
        num_attention_heads=32,
        num_key_value_heads=4,
        max_position_embeddings=1024,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
