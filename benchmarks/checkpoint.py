"""What saving costs a run, and how long resuming takes: the 135M model's mixture-of-experts twin.

`seektune demo`'s own model, rows and adapter (207M parameters, r = 16 on attention, dense, shared and routed
experts, batches of 32 rows), float32, one thread, a checkpoint every 20 steps written while training goes on.

    python benchmarks/checkpoint.py [--steps 40] [--every 20]

Last line, JSON. `save_overhead` = CPU-seconds of taking the copies and of the thread that writes them, over
CPU-seconds of the whole run without them; `waited` = the share of the run's wall time that the loop stood
still for saving; `resume_seconds` = CPU-seconds of verifying, reading and putting back the newest checkpoint,
after the model is loaded; `resumed_equal` = whether a run resumed from it ends bit for bit as this one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import Result, finish, log, machine, run_case


def main() -> None:
    """Measure in a process of one thread; with --case, be that process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--case", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        finish(measured(options.steps, options.every))
        return
    log(f"{options.steps} steps of the demo's mixture of experts, a checkpoint every {options.every}")
    result = run_case(__file__, "--case", "--steps", options.steps, "--every", options.every)
    finish(result | {"machine": machine()})


def measured(steps: int, every: int) -> Result:
    """Train and save, then resume from the checkpoint before the last."""
    with tempfile.TemporaryDirectory() as scratch:
        loaded, rows = demo(Path(scratch))
        root = Path(scratch) / "checkpoints"
        result = saving(loaded, rows, root, steps, every)
        return result | resuming(loaded, rows, root, steps)


def demo(folder: Path) -> tuple[Any, Any]:
    """The demo's model with its adapter, and its batches."""
    from seektune.adapters.attach import attach
    from seektune.data.prepare import prepare
    from seektune.models.chat import load_chat
    from seektune.models.load import load_model
    from seektune.quickstart.medical import medical_task
    from seektune.recipes.demo import demo_config
    from seektune.recipes.fit import ragged

    task = medical_task(folder / "task", train_rows=1600, held_out_rows=400)
    config = demo_config("moe", task, folder / "run")
    ready = prepare(config.data, load_chat(config.base_model), folder / "data")
    loaded = load_model(config.base_model, dtype=config.compute_dtype)
    return attach(loaded, config.lora), ragged(config, ready.train)


def saving(loaded: Any, rows: Any, root: Path, steps: int, every: int) -> Result:
    """A run that saves: what of it was saving."""
    from seektune.training import checkpoint
    from seektune.training.saver import Saver

    copying = waiting = writing = 0.0
    write = checkpoint.write

    def timed(*arguments: Any, **options: Any) -> Path:
        nonlocal writing
        start = time.thread_time()
        folder = write(*arguments, **options)
        writing += time.thread_time() - start
        return folder

    checkpoint.write = timed
    cpu, wall = time.process_time(), time.perf_counter()
    run = training(loaded, rows, steps)
    with Saver(root, keep=2) as saver:
        for metrics in run:
            if metrics.step % every == 0:
                start, waited = time.thread_time(), time.perf_counter()
                saver.save(run.state())
                copying += time.thread_time() - start
                waiting += time.perf_counter() - waited
        waited = time.perf_counter()
    waiting += time.perf_counter() - waited
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    checkpoint.write = write
    newest = checkpoint.folders(root)[-1]
    return {
        "save_overhead": (copying + writing) / (cpu - copying - writing),
        "waited": waiting / wall,
        "checkpoint_mb": sum(path.stat().st_size for path in newest.iterdir()) / 1e6,
        "cpu_seconds_per_save": (copying + writing) / (steps // every),
        "cpu_seconds": cpu,
    }


def resuming(loaded: Any, rows: Any, root: Path, steps: int) -> Result:
    """Verify, read and put back the newest checkpoint but the last, and train to the end from there."""
    import torch

    from seektune.adapters.inventory import Gate
    from seektune.config.training import TrainingConfig
    from seektune.training import checkpoint
    from seektune.training.trainer import Trainer

    ended = weights(loaded)
    if checkpoint.step_of(checkpoint.folders(root)[-1]) == steps:
        checkpoint.remove(checkpoint.folders(root)[-1])
    trainer = Trainer(loaded, Gate(loaded), TrainingConfig(learning_rate=1e-3, seed=0), steps)
    start = time.process_time()
    state, _ = checkpoint.newest(root)
    trainer.restore(state)
    seconds = time.process_time() - start
    for _ in training(loaded, rows, steps, resume=state):
        pass
    equal = all(torch.equal(tensor, ended[name]) for name, tensor in weights(loaded).items())
    return {"resume_seconds": seconds, "resumed_at": state.step, "resumed_equal": equal}


def training(loaded: Any, rows: Any, steps: int, **options: Any) -> Any:
    """The demo's run over `steps` steps."""
    from seektune.training.loop import train

    return train(loaded, rows, max_steps=steps, learning_rate=1e-3, seed=0, **options)


def weights(loaded: Any) -> dict[str, Any]:
    """Copies of what trains."""
    return {key: p.detach().clone() for key, p in loaded.model.named_parameters() if p.requires_grad}


if __name__ == "__main__":
    main()
