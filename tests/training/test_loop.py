from __future__ import annotations

import inspect
import json
import logging
import math
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_with_rows

from seektune.config.training import TrainingConfig
from seektune.data.batches import Batches
from seektune.errors import ConfigError, GateError, NonFiniteError, TrainingError
from seektune.models.load import Loaded, load_model
from seektune.models.tiny import TINY
from seektune.training import checkpoint
from seektune.training.loop import Run, train
from seektune.training.state import State
from seektune.types import StepMetrics

Adapted = Callable[..., Loaded]


def trained(loaded: Loaded) -> dict[str, torch.Tensor]:
    return {key: p.detach().clone() for key, p in loaded.model.named_parameters() if p.requires_grad}


def check_file(folder: Path) -> dict[str, Any]:
    checks: dict[str, Any] = json.loads((folder / "inventory.json").read_text())["checks"]
    return checks


def test_every_default_is_the_configurations_own() -> None:
    defaults = TrainingConfig()
    keywords = inspect.signature(train).parameters
    shared = keywords.keys() & TrainingConfig.model_fields.keys()
    assert len(shared) == 19
    assert {key: keywords[key].default for key in shared} == {key: getattr(defaults, key) for key in shared}


@pytest.mark.parametrize("name", TINY)
def test_every_generation_learns_rows_by_heart(
    name: str, rows: Any, adapted: Adapted, tmp_path: Path
) -> None:
    routed = load_model(f"tiny/{name}").family.experts is not None
    loaded = adapted(f"tiny/{name}", target_modules=["all-linear", "routed"] if routed else "all-linear")
    steps = list(train(loaded, rows.grouped(4), max_steps=8, learning_rate=2e-2, output_dir=tmp_path))
    assert [step.step for step in steps] == list(range(1, 9))
    assert steps[-1].loss < steps[0].loss - 0.5
    checks = check_file(tmp_path)
    assert (checks["gradients"], checks["first_update"], checks["frozen_unchanged"]) == (True, True, True)
    assert checks["router_unchanged"] is (True if routed else None)


def test_a_part_of_an_epoch_and_more_than_all_epochs(rows: Any, adapted: Adapted) -> None:
    part = list(train(adapted(), rows.grouped(2), num_train_epochs=0.5))
    assert [step.epoch for step in part] == [0.25, 0.5]
    more = list(train(adapted(), rows.grouped(2), num_train_epochs=1, max_steps=6))
    assert [step.epoch for step in more] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]


def test_evaluation_comes_every_eval_steps_and_after_the_last(rows: Any, adapted: Adapted) -> None:
    def evaluated(**settings: Any) -> list[int]:
        steps = train(adapted(), rows.grouped(4), eval_batches=rows.grouped(8), max_steps=5, **settings)
        return [step.step for step in steps if step.eval_loss is not None]

    assert evaluated(eval_steps=2) == [2, 4, 5]
    assert evaluated() == [5]
    assert all(step.eval_loss is None for step in train(adapted(), rows, max_steps=2, eval_steps=1))


def test_the_learning_rate_of_the_first_warm_up_step_is_zero_and_the_gate_waits(
    rows: Any, adapted: Adapted, tmp_path: Path
) -> None:
    steps = train(adapted(), rows.grouped(4), max_steps=3, warmup_steps=2, output_dir=tmp_path)
    assert [step.learning_rate for step in steps] == pytest.approx([0, 0.5e-4, 1e-4])
    assert check_file(tmp_path)["first_update"] is True


def test_accumulation_changes_no_step(rows: Any, adapted: Adapted) -> None:
    def run(group: int, accumulate: int) -> list[StepMetrics]:
        return list(
            train(
                adapted(dtype="float64"),
                rows.grouped(group),
                max_steps=4,
                learning_rate=1e-2,
                gradient_accumulation_steps=accumulate,
            )
        )

    for whole, parts in zip(run(4, 1), run(1, 4), strict=True):
        assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
        assert (parts.tokens, parts.epoch) == (whole.tokens, whole.epoch)


@pytest.mark.parametrize("name", ["llama", "deepseek_v3", "deepseek_v4"])
def test_checkpointing_changes_nothing_but_memory(name: str, rows: Any, adapted: Adapted) -> None:
    def run(checkpointing: bool) -> tuple[list[float], dict[str, torch.Tensor]]:
        loaded = adapted(f"tiny/{name}", lora_dropout=0.3)
        steps = train(
            loaded, rows.grouped(4), max_steps=3, learning_rate=1e-2, gradient_checkpointing=checkpointing
        )
        losses = []
        for step in steps:
            losses.append(step.loss)
            assert loaded.model.is_activation_checkpointing is checkpointing
        assert not loaded.model.is_activation_checkpointing
        return losses, trained(loaded)

    (losses, plain), (again, checkpointed) = run(False), run(True)
    assert again == losses
    torch.testing.assert_close(checkpointed, plain, rtol=0, atol=0)


def test_the_same_seed_trains_the_same_adapter_bit_for_bit(rows: Any, adapted: Adapted) -> None:
    def run(seed: int) -> dict[str, torch.Tensor]:
        loaded = adapted("tiny/deepseek_v3", target_modules=["attention", "routed"], lora_dropout=0.2)
        for _ in train(loaded, rows.grouped(4), max_steps=3, learning_rate=1e-2, seed=seed):
            torch.rand(3)  # what a caller does between two steps changes nothing
        return trained(loaded)

    first = run(1)
    torch.testing.assert_close(run(1), first, rtol=0, atol=0)
    assert any(not torch.equal(value, first[key]) for key, value in run(2).items())


def test_the_model_trains_in_training_mode_and_is_left_as_it_was(rows: Any, adapted: Adapted) -> None:
    loaded = adapted()
    assert [loaded.model.training for _ in train(loaded, rows, max_steps=2)] == [True, True]
    assert not any(module.training for module in loaded.model.modules())


def test_a_run_that_dies_still_proves_what_did_not_move(rows: Any, adapted: Adapted, tmp_path: Path) -> None:
    loaded = adapted("tiny/deepseek_v3")
    steps = train(loaded, rows.grouped(4), max_steps=9, output_dir=tmp_path)
    next(steps)
    for parameter in loaded.model.parameters():
        if parameter.requires_grad:
            parameter.data.fill_(float("nan"))
    broken = next(steps)
    assert math.isnan(broken.loss)
    assert (broken.step, broken.applied) == (2, False)
    with pytest.raises(
        NonFiniteError, match=r"(?s)step 2: non finite \(loss nan.*lora_A.*toy\.jsonl:5.*stops"
    ):
        next(steps)
    checks = check_file(tmp_path)
    assert (checks["frozen_unchanged"], checks["router_unchanged"]) == (True, True)
    assert not any(module.training for module in loaded.model.modules())


def test_closing_early_runs_the_end_check_too(rows: Any, adapted: Adapted, tmp_path: Path) -> None:
    loaded = adapted("tiny/deepseek_v3")
    steps = train(loaded, rows.grouped(4), max_steps=9, output_dir=tmp_path)
    next(steps)
    loaded.model.model.layers[1].mlp.gate.weight.data[0, 0] += 1
    with pytest.raises(GateError, match=r"layers\.1\.mlp\.gate\.weight belongs to the router"):
        steps.close()
    checks = check_file(tmp_path)
    assert checks["router_unchanged"] is False
    assert checks["frozen_unchanged"] is True


def test_a_run_still_open_when_the_interpreter_exits_ends_in_order(tmp_path: Path) -> None:
    script = f"""
from seektune.adapters.attach import attach
from seektune.config.adapter import AdapterSpec
from seektune.data.batches import Batches
from seektune.models.load import load_model
from seektune.training.loop import train
from seektune.types import Sample

batches = Batches(samples=(Sample((3, 4, 5), (4, 5, 6), "toy"),), batch_size=1, shuffle=False)
steps = train(attach(load_model("tiny/llama"), AdapterSpec()), batches, output_dir={str(tmp_path)!r})
next(steps)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
    assert check_file(tmp_path)["frozen_unchanged"] is True


def test_what_cannot_train_is_refused_before_the_first_step(rows: Any, adapted: Adapted) -> None:
    with pytest.raises(ConfigError, match=r"train: learning_rate: .*greater than 0"):
        train(adapted(), rows, learning_rate=-1.0)
    with pytest.raises(ConfigError, match="lr_scheduler_type"):
        train(adapted(), rows, lr_scheduler_type="cosin")
    with pytest.raises(TrainingError, match=r"^batches is empty"):
        train(adapted(), type(rows)([]))
    with pytest.raises(TrainingError, match="eval_batches is empty"):
        train(adapted(), rows, eval_batches=type(rows)([]))
    with pytest.raises(TrainingError, match=r"float16 does not train on a CPU.*bf16"):
        train(adapted(dtype="float16"), rows)
    with pytest.raises(GateError, match="no adapter is active"):
        next(train(load_model("tiny/llama"), rows))


@pytest.mark.parametrize(("name", "lines"), [("llama", 0), ("deepseek_v32", 1), ("deepseek_v4", 1)])
def test_a_family_that_does_not_pack_says_so_once(
    name: str, lines: int, rows: Any, adapted: Adapted, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        list(train(adapted(f"tiny/{name}"), rows.grouped(4), max_steps=2))
    said = [record.getMessage() for record in caplog.records if "does not pack" in record.getMessage()]
    assert len(said) == lines


WORKER = """
import json, sys
from seektune.adapters.attach import attach
from seektune.config.adapter import AdapterSpec
from seektune.data.batches import Batches
from seektune.models.load import load_model
from seektune.training.loop import train
from seektune.training.world import world
from seektune.types import Sample

rank, size = world()
samples = tuple(Sample(*fields) for fields in json.load(open(sys.argv[1] + "/rows.json")))
loaded = load_model("tiny/deepseek_v3", dtype="float64")
attach(loaded, AdapterSpec(r=4, target_modules=["attention", "routed"]))
batches = Batches(samples=samples, batch_size=1, rank=rank, world_size=size, shuffle=False)
steps = train(
    loaded, batches, eval_batches=batches, max_steps=3, learning_rate=1e-2, output_dir=sys.argv[1],
    gradient_accumulation_steps=4 // size, eval_steps=2,
)
lines = [[step.loss, step.grad_norm, step.tokens, step.epoch, step.eval_loss or 0] for step in steps]
if rank == 0:
    weights = [p.double().sum().item() for p in loaded.model.parameters() if p.requires_grad]
    json.dump({"size": size, "lines": lines, "weights": weights}, open(sys.argv[1] + "/out.json", "w"))
"""


@pytest.mark.slow
def test_two_processes_train_what_one_does(rows: Any, tmp_path: Path) -> None:
    one = run_with_rows(tmp_path / "one", rows, WORKER, processes=1)
    two = run_with_rows(tmp_path / "two", rows, WORKER)
    assert (one["size"], two["size"]) == (1, 2)
    for alone, together in zip(one["lines"], two["lines"], strict=True):
        assert together == pytest.approx(alone, rel=1e-5)
    assert two["weights"] == pytest.approx(one["weights"], rel=1e-4, abs=1e-5)
    assert check_file(tmp_path / "two")["first_update"] is True


def lines_of(steps: Any) -> list[StepMetrics]:
    """What must not differ between two runs of the same thing: all but wall times."""
    return [replace(step, seconds=0.0) for step in steps]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_interrupted_at_any_step_ends_bit_for_bit_as_the_uninterrupted_one(
    dtype: str, rows: Any, adapted: Adapted, tmp_path: Path
) -> None:
    """Dropout, routed experts, packing, two batches a step, a warm-up, an epoch's short last step."""

    def start(folder: str, resume: State | None = None) -> tuple[Loaded, Run]:
        loaded = adapted(
            "tiny/deepseek_v3", dtype=dtype, target_modules=["attention", "routed"], lora_dropout=0.2
        )
        packed = Batches(samples=rows.samples, pack_tokens=36, seed=3)
        run = train(
            loaded,
            packed,
            eval_batches=rows.grouped(4),
            max_steps=6,
            warmup_steps=1,
            learning_rate=1e-2,
            gradient_accumulation_steps=2,
            eval_steps=2,
            output_dir=tmp_path / folder,
            resume=resume,
        )
        return loaded, run

    whole, run = start("whole")
    expected = lines_of(run)
    assert [round(line.epoch, 2) for line in expected] == [0.4, 0.8, 1.0, 1.4, 1.8, 2.0]
    for stop in range(1, 7):
        _, interrupted = start("interrupted")
        before = lines_of(islice(interrupted, stop))
        folder = checkpoint.write(interrupted.state(), tmp_path / "checkpoints")
        interrupted.close()
        torch.rand(stop), random.random()  # another process begins with other random states
        loaded, resumed = start("resumed", checkpoint.read(folder))
        assert before + lines_of(resumed) == expected
        torch.testing.assert_close(trained(loaded), trained(whole), rtol=0, atol=0)
        assert check_file(tmp_path / "resumed") == check_file(tmp_path / "whole")


def test_a_resumed_run_can_be_interrupted_again(rows: Any, adapted: Adapted) -> None:
    def start(resume: State | None = None) -> tuple[Loaded, Run]:
        loaded = adapted(lora_dropout=0.2)
        return loaded, train(loaded, rows.grouped(3), max_steps=5, learning_rate=1e-2, resume=resume)

    whole, run = start()
    expected = lines_of(run)
    loaded, run = start()
    seen = lines_of(islice(run, 1))
    while len(seen) < 5:
        loaded, run = start(run.state())
        seen += lines_of(islice(run, 1))
    assert seen == expected
    torch.testing.assert_close(trained(loaded), trained(whole), rtol=0, atol=0)


def test_a_state_taken_twice_is_the_same_and_taking_it_changes_nothing(rows: Any, adapted: Adapted) -> None:
    run = train(adapted(), rows.grouped(4), max_steps=4)
    plain = train(adapted(), rows.grouped(4), max_steps=4)
    for step, other in zip(run, plain, strict=True):
        first, second = run.state(), run.state()
        assert first.step == step.step
        torch.testing.assert_close(dict(first.optimizer), dict(second.optimizer), rtol=0, atol=0)
        assert replace(step, seconds=0.0) == replace(other, seconds=0.0)


def test_there_is_no_state_before_the_first_step(rows: Any, adapted: Adapted) -> None:
    with pytest.raises(TrainingError, match="no state before its first step"):
        train(adapted(), rows).state()


def interrupted(loaded: Loaded, batches: Any, **settings: Any) -> State:
    run = train(loaded, batches, max_steps=4, **settings)
    next(run)
    state = run.state()
    run.close()
    return state


def test_other_data_is_refused_on_resuming(rows: Any, adapted: Adapted) -> None:
    state = interrupted(adapted(), rows.grouped(2))
    for other in (rows.grouped(4), type(rows)(rows.samples[::-1], 2), type(rows)(rows.samples[1:], 2)):
        with pytest.raises(TrainingError, match=r"the rows of step 1 have changed"):
            next(train(adapted(), other, max_steps=4, resume=state))


def test_another_base_is_refused_on_resuming_and_the_inventory_says_nothing_wrong(
    rows: Any, adapted: Adapted, tmp_path: Path
) -> None:
    state = interrupted(adapted(), rows.grouped(2))
    other = adapted()
    other.model.model.norm.weight.data[0] += 1e-3
    with pytest.raises(GateError, match="the base is not the one the run began with"):
        next(train(other, rows.grouped(2), max_steps=4, resume=state, output_dir=tmp_path))
    assert check_file(tmp_path)["frozen_unchanged"] is True


def test_what_was_used_before_an_interruption_counts_at_the_end(
    rows: Any, adapted: Adapted, tmp_path: Path
) -> None:
    """The last run of the process sees no token of some experts; the whole run did."""
    settings = {"max_steps": 4, "output_dir": tmp_path}
    first = adapted("tiny/deepseek_v3", target_modules=["routed"])
    run = train(first, rows.grouped(8), **settings)
    list(islice(run, 4))
    state = run.state()
    run.close()
    never_hit = check_file(tmp_path)["experts_never_hit"]
    list(
        train(
            adapted("tiny/deepseek_v3", target_modules=["routed"]), rows.grouped(8), resume=state, **settings
        )
    )
    assert check_file(tmp_path)["experts_never_hit"] == never_hit
    assert check_file(tmp_path)["unused_groups"] == []


def test_a_difference_of_the_machine_is_one_named_warning(
    rows: Any, adapted: Adapted, caplog: pytest.LogCaptureFixture
) -> None:
    state = interrupted(adapted(), rows.grouped(2))
    elsewhere = state.values["surroundings"] | {"threads": 77, "torch": "1.0"}
    moved = replace(state, values={**state.values, "surroundings": elsewhere})
    list(train(adapted(), rows.grouped(2), max_steps=4, resume=state))
    assert not [record for record in caplog.records if "resumed" in record.getMessage()]
    list(train(adapted(), rows.grouped(2), max_steps=4, resume=moved))
    (line,) = [record.getMessage() for record in caplog.records if "resumed" in record.getMessage()]
    assert f"threads 77 → {torch.get_num_threads()}; torch 1.0 → {torch.__version__}" in line


RESUMED = """
import json, sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
import torch
from seektune.adapters.attach import attach
from seektune.config.adapter import AdapterSpec
from seektune.data.batches import Batches
from seektune.models.load import load_model
from seektune.training import checkpoint
from seektune.training.loop import train
from seektune.training.world import world
from seektune.types import Sample

rank, size = world()
samples = tuple(Sample(*fields) for fields in json.load(open(sys.argv[1] + "/rows.json")))

def start(resume=None):
    loaded = attach(load_model("tiny/llama"), AdapterSpec(r=4, lora_dropout=0.2))
    batches = Batches(samples=samples, batch_size=1, rank=rank, world_size=size, seed=1)
    return loaded, train(
        loaded, batches, max_steps=5, learning_rate=1e-2, gradient_accumulation_steps=2, resume=resume
    )

def weights(loaded):
    return {key: p.detach() for key, p in loaded.model.named_parameters() if p.requires_grad}

whole, run = start()
expected = [replace(step, seconds=0) for step in run]
_, run = start()
seen = [replace(step, seconds=0) for step in islice(run, 3)]
state = run.state()
run.close()
root = Path(sys.argv[1]) / "checkpoints"
if rank == 0:
    checkpoint.write(state, root)
torch.distributed.barrier()
loaded, run = start(checkpoint.newest(root)[0])
seen += [replace(step, seconds=0) for step in run]
assert seen == expected, (rank, seen, expected)
torch.testing.assert_close(weights(loaded), weights(whole), rtol=0, atol=0)
if rank == 0:
    facts = {"size": size, "states": len(state.values["random"]), "names": list(state.parameters)}
    json.dump(facts, open(sys.argv[1] + "/out.json", "w"))
"""


@pytest.mark.slow
def test_two_processes_resume_bit_for_bit(rows: Any, tmp_path: Path) -> None:
    facts = run_with_rows(tmp_path / "two", rows, RESUMED)
    assert (facts["size"], facts["states"]) == (2, 2)
    assert not [name for name in facts["names"] if name.startswith("module.")]  # as one process names them
