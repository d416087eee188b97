from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_with_rows
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from seektune.adapters.attach import deltas_of
from seektune.adapters.inventory import Gate
from seektune.config.training import TrainingConfig
from seektune.errors import ConfigError, GateError, TargetError
from seektune.models.load import Loaded
from seektune.training import checkpoint
from seektune.training.loop import Run, train
from seektune.training.probe import MOVEMENT_STEPS
from seektune.training.schedule import slow_down
from seektune.training.stages import planned_stages, stage_at, train_only
from seektune.training.state import State
from seektune.training.step import TrainStep
from seektune.training.trainer import Trainer
from seektune.training.window import windows

Adapted = Callable[..., Loaded]
LOW = {"layers": [0, 0.5], "learning_rate": 1e-2, "max_steps": 3}
HIGH = {"layers": [0.5, 1], "learning_rate": 5e-3, "max_steps": 2}


def plan(loaded: Loaded, rows: Any, *stages: dict[str, Any]) -> Any:
    settings = TrainingConfig(stages=stages)  # type: ignore[arg-type]
    return planned_stages(loaded, rows, settings)


def weights(loaded: Loaded) -> dict[str, Tensor]:
    return {key: p.detach().clone() for key, p in loaded.model.named_parameters() if ".deltas." in key}


def changed(loaded: Loaded, before: dict[str, Tensor]) -> set[int]:
    """The layers with a parameter that is not what it was."""
    return {
        int(key.split(".layers.")[1].split(".")[0])
        for key, value in weights(loaded).items()
        if not torch.equal(value, before[key])
    }


def test_a_plan_names_layers_groups_and_steps(adapted: Adapted, rows: Any) -> None:
    loaded = adapted("tiny/deepseek_v3", target_modules=["attention", "dense", "routed", "shared"])
    first, second, third = plan(
        loaded,
        rows.grouped(2),
        {"layers": [0, 0.5], "target_modules": ["attention"], "learning_rate": 1e-3, "num_train_epochs": 1},
        {"layers": [0.5, 1.0], "learning_rate": 1e-4, "num_train_epochs": 0.3},
        {"target_modules": "all-linear", "learning_rate": 1e-5, "max_steps": 5},
    )
    assert [(s.start, s.span.steps) for s in (first, second, third)] == [(0, 4), (4, 2), (6, 5)]
    groups = {"self_attn": "attention", "mlp": "mlp"}
    assert {groups[site.split(".")[3]] for site in first.sites} == {"attention"}
    assert {int(site.split(".")[2]) for site in first.sites} == set(first.layers)
    assert {int(site.split(".")[2]) for site in second.sites} == set(second.layers)
    assert not set(first.layers) & set(second.layers)
    assert len(third.sites) > len(first.sites)
    assert not any(site.endswith("mlp.experts") for site in third.sites)
    assert str(first).startswith("stage 1 of 3: layers 0")
    assert str(first).endswith("steps 1-4, learning rate 0.001")
    assert [stage_at((first, second, third), step) for step in (0, 3, 4, 5, 6, 10)] == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([LOW | {"layers": [0, 0.1]}], r"stage 1 of 1: layers \[0\.0, 0\.1\] is none of the 2 layers"),
        ([LOW], r"no stage trains attention, shared in layers 1 .* cover them in a stage, or leave them out"),
        ([LOW, HIGH | {"target_modules": ["atention"]}], r"stage 2 of 2: .*did you mean attention\?"),
        (
            [LOW, HIGH | {"target_modules": ["routed"]}],
            r"stage 2 of 2: .*nothing of \('routed',\), it has att",
        ),
        (
            [LOW | {"target_modules": ["shared"]}, HIGH],
            r"stage 1 of 2: the adapter has nothing of \('shared',\) in layers 0 of 2; it is in layers 1",
        ),
    ],
)
def test_a_stage_with_nothing_to_train_is_named_with_what_there_is(
    stages: list[dict[str, Any]], message: str, adapted: Adapted, rows: Any
) -> None:
    loaded = adapted("tiny/deepseek_v3", target_modules=["attention", "shared"])
    with pytest.raises(TargetError, match=message):
        plan(loaded, rows, *stages)


def test_only_the_stage_s_parameters_train_and_afterwards_all_can(adapted: Adapted, rows: Any) -> None:
    loaded = adapted()
    run = train(loaded, rows.grouped(2), stages=[LOW, HIGH])
    before, moved, rates = weights(loaded), [], []
    for step in run:
        moved.append(changed(loaded, before))
        rates.append(step.learning_rate)
        before = weights(loaded)
    assert moved == [{0}, {0}, {0}, {1}, {1}]
    assert rates == pytest.approx([1e-2, 2e-2 / 3, 1e-2 / 3, 5e-3, 2.5e-3])
    assert all(p.requires_grad for key, p in loaded.model.named_parameters() if ".deltas." in key)


def test_a_run_that_ends_early_leaves_the_whole_adapter_trainable(adapted: Adapted, rows: Any) -> None:
    loaded = adapted()
    run = train(loaded, rows.grouped(2), stages=[LOW, HIGH])
    next(run)
    assert not all(p.requires_grad for key, p in loaded.model.named_parameters() if ".deltas." in key)
    run.close()
    assert all(p.requires_grad for key, p in loaded.model.named_parameters() if ".deltas." in key)


def test_every_stage_warms_up_and_decays_on_its_own(adapted: Adapted, rows: Any) -> None:
    stages = [LOW | {"max_steps": 4}, HIGH | {"max_steps": 4}]
    run = train(adapted(), rows, stages=stages, warmup_ratio=0.25)
    rates = [step.learning_rate for step in run]
    shape = [0, 1, 2 / 3, 1 / 3]
    assert rates == pytest.approx([1e-2 * part for part in shape] + [5e-3 * part for part in shape])


def test_the_moments_of_what_rests_are_kept_for_its_next_turn(adapted: Adapted, rows: Any) -> None:
    loaded = adapted()
    run = train(loaded, rows, stages=[LOW, HIGH, LOW])
    counts = []
    for _ in run:
        steps = run.state().optimizer
        low = next(
            float(value) for key, value in steps.items() if "layers.0." in key and key.endswith(".step")
        )
        counts.append(low)
    assert counts == [1, 2, 3, 3, 3, 4, 5, 6]


def test_one_stage_of_everything_is_the_plain_run(adapted: Adapted, rows: Any) -> None:
    plain, staged = adapted(lora_dropout=0.2), adapted(lora_dropout=0.2)
    settings = {"max_steps": 3, "learning_rate": 1e-2}
    losses = [step.loss for step in train(plain, rows, **settings)]
    assert [step.loss for step in train(staged, rows, stages=[settings])] == losses
    torch.testing.assert_close(weights(staged), weights(plain), rtol=0, atol=0)


def lines_of(steps: Any) -> list[Any]:
    return [replace(step, seconds=0.0) for step in steps]


@pytest.mark.parametrize("name", ["llama", "deepseek_v3"])
def test_resuming_in_any_stage_and_at_its_border_ends_bit_for_bit_as_uninterrupted(
    name: str, rows: Any, adapted: Adapted, tmp_path: Path
) -> None:
    targets = ["attention", "routed"] if name == "deepseek_v3" else ["attention"]

    def start(folder: str, resume: State | None = None) -> tuple[Loaded, Run]:
        loaded = adapted(f"tiny/{name}", target_modules=targets, lora_dropout=0.2)
        run = train(
            loaded,
            rows.grouped(3),
            stages=[LOW | {"max_steps": 2}, HIGH, LOW | {"max_steps": 2}],
            gradient_accumulation_steps=2,
            loraplus_lr_ratio=4,
            layerwise_lr_decay=0.5,
            warmup_steps=1,
            output_dir=tmp_path / folder,
            resume=resume,
        )
        return loaded, run

    whole, run = start("whole")
    expected = lines_of(run)
    for stop in range(1, 7):
        _, interrupted = start("interrupted")
        before = lines_of(islice(interrupted, stop))
        folder = checkpoint.write(interrupted.state(), tmp_path / "checkpoints")
        interrupted.close()
        torch.rand(stop), random.random()
        loaded, resumed = start("resumed", checkpoint.read(folder))
        assert before + lines_of(resumed) == expected
        torch.testing.assert_close(weights(loaded), weights(whole), rtol=0, atol=0)
        inventories = [(tmp_path / side / "inventory.json").read_text() for side in ("resumed", "whole")]
        assert inventories[0] == inventories[1]


def test_the_inventory_has_a_table_and_the_checks_of_every_stage(
    adapted: Adapted, rows: Any, tmp_path: Path
) -> None:
    loaded = adapted("tiny/deepseek_v3", target_modules=["attention", "routed"])
    list(train(loaded, rows.grouped(2), stages=[LOW, HIGH], output_dir=tmp_path))
    written = json.loads((tmp_path / "inventory.json").read_text())
    first, second = written["stages"]
    for number, stage in enumerate((first, second), start=1):
        name = f"stage {number} of 2"
        assert stage["checks"] == {"stage": name, "gradients": True, "first_update": True}
    both = {row["group"]: row["trainable"] for row in written["rows"] if row["matched"]}
    parts = [{row["group"]: row["trainable"] for row in stage["rows"]} for stage in (first, second)]
    assert {group: sum(part[group] for part in parts) for group in both} == both
    assert parts[0]["routed"] == 0  # its first layer is dense
    assert (written["checks"]["gradients"], written["checks"]["first_update"]) == (True, True)


def test_the_gate_stops_a_stage_that_moves_what_must_rest(adapted: Adapted, rows: Any) -> None:
    loaded = adapted()
    resting = next(p for key, p in loaded.model.named_parameters() if "layers.1." in key and "lora_A" in key)
    run = train(loaded, rows, stages=[LOW, HIGH])
    for _ in range(3):
        next(run)
    resting.data[0, 0] += 1
    with pytest.raises(
        GateError, match=r"at the beginning of stage 2 of 2:\n.*layers\.1\..*must rest in this st"
    ):
        next(run)


def test_the_gate_stops_a_stage_whose_parameters_do_not_train(
    adapted: Adapted, rows: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seektune.training.stages.train_only", lambda loaded, sites: None)
    with pytest.raises(GateError, match=r"beginning of stage 1 of 2:\n.*layers\.1\..* would train"):
        next(train(adapted(), rows, stages=[LOW, HIGH]))


def test_going_back_over_a_border_lets_the_earlier_stage_train_again(adapted: Adapted, rows: Any) -> None:
    loaded = adapted()
    settings = TrainingConfig(stages=(LOW, HIGH))  # type: ignore[arg-type]
    stages = planned_stages(loaded, rows, settings)
    gate = Gate(loaded, {stage.name: stage.sites for stage in stages})
    trainer, stream = Trainer(loaded, gate, settings, 5, stages), windows(rows, 1)
    for _ in range(2):
        trainer.apply(trainer.attempt(next(stream)))
    state = trainer.state()
    for _ in range(2):
        trainer.apply(trainer.attempt(next(stream)))
    assert trainer.turns.stage == 1
    trainer.restore(state, same_run=True)
    slow_down(trainer.schedule, 0.5)
    before = weights(loaded)
    metrics = trainer.apply(trainer.attempt(next(stream)))
    assert metrics.learning_rate == pytest.approx(0.5 * 1e-2 / 3)
    assert changed(loaded, before) == {0}
    trainer.apply(trainer.attempt(next(stream)))
    assert changed(loaded, before) == {0, 1}


def test_health_does_not_take_what_rests_for_dead(adapted: Adapted, rows: Any) -> None:
    loaded = adapted(target_modules=["attention", "dense"])
    stages = [
        {"target_modules": [group], "learning_rate": 1e-3, "max_steps": MOVEMENT_STEPS + 2}
        for group in ("attention", "dense")
    ]
    kinds = {found["kind"] for step in train(loaded, rows, stages=stages) for found in step.findings}
    assert "dead_adapter" not in kinds


def test_health_does_not_take_slow_layers_for_dead(adapted: Adapted, rows: Any) -> None:
    loaded = adapted("tiny/deepseek_v3", target_modules=["dense", "routed"])  # dense: the first layer only
    run = train(loaded, rows, max_steps=MOVEMENT_STEPS + 2, learning_rate=1e-3, layerwise_lr_decay=1e-4)
    assert not [found for step in run for found in step.findings]


def test_stages_exclude_lengths_and_rates_of_the_whole_run(adapted: Adapted, rows: Any) -> None:
    with pytest.raises(ConfigError, match="max_steps and learning_rate would be ignored"):
        train(adapted(), rows, stages=[LOW, HIGH], max_steps=3, learning_rate=1e-3)


def test_the_backward_ends_at_the_lowest_layer_that_learns(adapted: Adapted, rows: Any) -> None:
    """A frozen base costs F forward and F backward; with the lower half at rest half the backward goes."""
    loaded = adapted(target_modules=["attention", "dense"])
    step = TrainStep(loaded).train()
    batch = next(rows.grouped(8).epoch(0))

    def flops(layers: set[int]) -> tuple[float, float]:
        sites = {site for site in deltas_of(loaded, "default") if int(site.split(".")[2]) in layers}
        train_only(loaded, sites)
        with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as forward:
            loss, *_ = step(
                batch.input_ids, batch.position_ids, batch.cu_seqlens, batch.targets, batch.weights
            )
        with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as backward:
            loss.backward()
        ran = {
            int(key.split(".layers.")[1].split(".")[0])
            for key, p in loaded.model.named_parameters()
            if p.grad is not None
        }
        assert ran == layers
        loaded.model.zero_grad()
        return forward.get_total_flops(), backward.get_total_flops()

    (same, everything), (forward, high) = flops({0, 1}), flops({1})
    assert forward == same
    assert high < 0.65 * everything
    assert flops({0})[1] < everything  # what rests above passes the gradient on, and computes none of its own


def _addmm_flops(self_shape: Any, a: Any, b: Any, **_: Any) -> int:
    return int(2 * a[0] * a[1] * b[1])


IN_PLACE = {torch.ops.aten.addmm_: _addmm_flops}


WORKER = """
import json, sys
from itertools import islice
import torch
from seektune.adapters.attach import attach
from seektune.config.adapter import AdapterSpec
from seektune.data.batches import Batches
from seektune.models.load import load_model
from seektune.training.loop import train
from seektune.training.world import world
from seektune.types import Sample

rank, size = world()
samples = tuple(Sample(*fields) for fields in json.load(open(sys.argv[1] + "/rows.json")))
stages = [
    {"layers": [0, 0.5], "learning_rate": 1e-2, "max_steps": 2},
    {"layers": [0.5, 1], "learning_rate": 5e-3, "max_steps": 3},
]

def start(resume=None):
    loaded = load_model("tiny/deepseek_v3", dtype="float64")
    attach(loaded, AdapterSpec(r=4, target_modules=["attention", "routed"]))
    batches = Batches(samples=samples, batch_size=1, rank=rank, world_size=size, shuffle=False)
    run = train(
        loaded, batches, stages=stages, gradient_accumulation_steps=4 // size, loraplus_lr_ratio=4,
        layerwise_lr_decay=0.5, resume=resume, output_dir=sys.argv[1],
    )
    return loaded, run

def weights(loaded):
    return [p.detach().clone() for key, p in loaded.model.named_parameters() if ".deltas." in key]

whole, run = start()
lines = [[step.loss, step.grad_norm, step.learning_rate] for step in run]
_, run = start()
list(islice(run, 3))
state = run.state()
run.close()
resumed, run = start(state)
list(run)
if rank == 0:
    same = all(map(torch.equal, weights(whole), weights(resumed)))
    sums = [p.sum().item() for p in weights(whole)]
    json.dump({"lines": lines, "sums": sums, "same": same}, open(sys.argv[1] + "/out.json", "w"))
"""


@pytest.mark.slow
def test_two_processes_go_through_the_stages_as_one_does(rows: Any, tmp_path: Path) -> None:
    one = run_with_rows(tmp_path / "one", rows, WORKER, processes=1)
    two = run_with_rows(tmp_path / "two", rows, WORKER)
    for alone, together in zip(one["lines"], two["lines"], strict=True):
        assert together == pytest.approx(alone, rel=1e-5)
    assert two["sums"] == pytest.approx(one["sums"], rel=1e-4, abs=1e-5)
    assert one["same"]
    assert two["same"]
    for stage in json.loads((tmp_path / "two" / "inventory.json").read_text())["stages"]:
        assert stage["checks"]["first_update"] is True
