"""Progressive training against plain training at equal compute, on the demo's task.

`seektune demo`'s dense model (135M, 30 layers), adapter (r = 16 on attention and MLP), batches (32 rows),
learning rate (1e-3, linear decay to 0, in every stage anew) and task, with 2,000 rows to learn from and 800
held out. Fixed before any progressive run:

- arms: `plain`, all layers for 50 steps; `low_high`, the lower half of the layers, then the upper half (the
  question); `high_low`, the reverse; `low_all`, the lower half, then all layers.
- equal compute: CPU-seconds of training. A step of each kind of stage is timed once, in turns in one process;
  each stage of an arm gets the same number of steps, the most for which the arm costs no more than `plain`.
  No arm reads a row twice, and all read the rows of a seed in the same order.
- seeds 0, 1 and 2; a seed draws the adapter and the order of the rows.
- outcome: accuracy on the held-out rows; beside it the loss, −log p of the right option among the options.
  Differences are within a seed; their mean has a 95 % t interval over the seeds. An arm is better or worse
  than `plain` where that interval leaves out 0.

    python benchmarks/progressive.py --folder FOLDER [--arms plain low_high …]

What a process has found is kept in FOLDER, so that the work may be interrupted. Last line, JSON: of an arm
`steps`, `accuracy`, `loss` and `cpu_seconds` by seed, and the mean differences from `plain` with intervals.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import Result, finish, log, machine, run_case

ARMS: dict[str, list[str]] = {
    "plain": ["all"],
    "low_high": ["low", "high"],
    "high_low": ["high", "low"],
    "low_all": ["low", "all"],
}
SEEDS = 3
LAYERS = {"low": (0.0, 0.5), "high": (0.5, 1.0), "all": (0.0, 1.0)}
LEARNING_RATE, STEPS, ROWS, HELD_OUT = 1e-3, 50, 2000, 800
TIMED = 7
"""Steps of each kind that are timed."""


def main() -> None:
    """Do what is not done yet, a process a run, and print what all of it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--case", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case is not None:
        finish(case(options.folder, *options.case))
        return
    costs = kept(options.folder, "costs")
    log(f"CPU-seconds of a step: {costs}")
    runs = {
        arm: [kept(options.folder, arm, seed, steps_of(arm, costs)) for seed in range(SEEDS)]
        for arm in options.arms
    }
    arms = {arm: summary(arm, found, runs.get("plain", found)) for arm, found in runs.items()}
    finish({"step_cpu_seconds": costs, "arms": arms, "machine": machine()})


def kept(folder: Path, *arguments: object) -> Result:
    """The result of a case: from the folder, or run now and put there."""
    path = folder / ("-".join(map(str, arguments)) + ".json")
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        result = run_case(__file__, "--folder", folder, "--case", *arguments)
        path.write_text(json.dumps(result), encoding="utf-8")
        log(f"{path.stem}: {result}")
    found: Result = json.loads(path.read_text(encoding="utf-8"))
    return found


def steps_of(arm: str, costs: Result) -> int:
    """Steps of each stage of the arm."""
    return int(STEPS * costs["all"] / sum(costs[kind] for kind in ARMS[arm]) + 1e-9)


def summary(arm: str, found: Sequence[Result], plain: Sequence[Result]) -> Result:
    """What the runs of an arm say, against those of `plain` with the same seeds."""
    keys = ("steps", "accuracy", "loss", "cpu_seconds")
    result: Result = {key: [run[key] for run in found] for key in keys}
    if arm != "plain":
        for key in ("accuracy", "loss"):
            differences = [mine[key] - its[key] for mine, its in zip(found, plain, strict=False)]
            result[f"{key}_difference"], result[f"{key}_interval"] = mean_and_interval(differences)
    return result


def mean_and_interval(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Mean and its 95 % t interval."""
    from scipy.stats import t

    mean = statistics.mean(values)
    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return mean, (mean - half, mean + half)


def case(folder: Path, what: str, seed: str = "0", steps: str = "0") -> Result:
    """In a process of its own: time the steps, or train and score one run."""
    loaded, rows, examples = demo(folder, int(seed))
    if what == "costs":
        return costs(loaded, rows)
    started = time.process_time()
    *_, last = training(loaded, rows, ARMS[what], int(seed), int(steps))
    spent = time.process_time() - started
    accuracy, loss = scored(loaded, examples)
    return {"steps": last.step, "accuracy": accuracy, "loss": loss, "cpu_seconds": spent}


def demo(folder: Path, seed: int) -> tuple[Any, Any, Any]:
    """The demo's dense model with its adapter, its rows in batches, and the held-out questions."""
    from seektune.adapters.attach import attach
    from seektune.data.prepare import prepare
    from seektune.models.chat import load_chat
    from seektune.models.load import load_model
    from seektune.quickstart.medical import medical_task
    from seektune.recipes.demo import demo_config
    from seektune.recipes.fit import ragged

    task = medical_task(folder / "task", train_rows=ROWS, held_out_rows=HELD_OUT)
    config = demo_config("dense", task, folder / "run")
    config = config.model_copy(update={"training": config.training.model_copy(update={"seed": seed})})
    ready = prepare(config.data, load_chat(config.base_model), folder / "data")
    loaded = attach(load_model(config.base_model, dtype=config.compute_dtype), config.lora, seed=seed)
    return loaded, ragged(config, ready.train), list(ready.held_out_rows)


def training(loaded: Any, rows: Any, kinds: Sequence[str], seed: int, steps: int) -> Any:
    """A run of one stage per kind, each of `steps` steps."""
    from seektune.training.loop import train

    if kinds == ["all"]:
        settings: dict[str, Any] = {"max_steps": steps, "learning_rate": LEARNING_RATE}
    else:
        stage = {"max_steps": steps, "learning_rate": LEARNING_RATE}
        settings = {"stages": [{"layers": LAYERS[kind]} | stage for kind in kinds]}
    return train(loaded, rows, seed=seed, **settings)


def scored(loaded: Any, examples: Sequence[Any]) -> tuple[float, float]:
    """The share of questions whose right option is the likeliest, and −log p of the right one among all."""
    import torch

    from seektune.evaluation.multiple_choice import option_scores

    scores = option_scores(loaded, examples).log_softmax(1)
    right = torch.tensor([example.answer for example in examples])
    loss = -scores[torch.arange(len(right)), right].mean().item()
    return (scores.argmax(1) == right).float().mean().item(), loss


def costs(loaded: Any, rows: Any) -> Result:
    """Median CPU-seconds of a step that trains the lower half, the upper half, all layers; taken in turns."""
    import torch

    from seektune.training.step import TrainStep

    module = TrainStep(loaded).train()
    depth = loaded.model.config.num_hidden_layers
    adapter = [(name, p) for name, p in loaded.model.named_parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([p for _, p in adapter], lr=0.0, fused=True)
    spent: dict[str, list[float]] = {kind: [] for kind in LAYERS}
    batches = rows.epoch(0)
    for _ in range(TIMED):
        batch = next(batches)
        for kind, (first, last) in LAYERS.items():
            for name, parameter in adapter:
                layer = int(name.split(".layers.")[1].split(".")[0])
                parameter.requires_grad_(first * depth <= layer < last * depth)
            started = time.process_time()
            loss, weight, _ = module(
                batch.input_ids, batch.position_ids, batch.cu_seqlens, batch.targets, batch.weights
            )
            (loss / weight).backward()
            optimizer.step()
            optimizer.zero_grad()
            spent[kind].append(time.process_time() - started)
    return {kind: statistics.median(seconds[1:]) for kind, seconds in spent.items()}


if __name__ == "__main__":
    main()
