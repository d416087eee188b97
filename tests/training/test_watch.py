"""Real tiny runs under the loop's own health: planted faults, and what each policy does about them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from health_runs import RARE, adapted, row, rows
from processes import run_script

from seektune.config.training import HealthConfig
from seektune.data.batches import Batches
from seektune.errors import NonFiniteError, TrainingError
from seektune.models.load import Loaded
from seektune.training.finding import Finding
from seektune.training.loop import Run, train
from seektune.training.state import State
from seektune.types import Sample, StepMetrics


def run_of(loaded: Loaded, samples: Any, *, batch_size: int = 4, **settings: Any) -> Run:
    """Rows in their order; `health` is a dictionary of policies."""
    batches = Batches(samples=tuple(samples), batch_size=batch_size, shuffle=False)
    policies = HealthConfig(**settings.pop("health", {}))
    return train(loaded, batches, health=policies, **settings)


def trained(loaded: Loaded) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in loaded.model.parameters() if p.requires_grad])


def poisoned(samples: list[Sample], index: int) -> list[Sample]:
    """Row `index` has a token that no other has."""
    row = samples[index]
    return [*samples[:index], replace(row, input_ids=(0, RARE, *row.input_ids[2:])), *samples[index + 1 :]]


def with_poison(name: str, **options: Any) -> Loaded:
    loaded = adapted(name, **options)
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[RARE] = float("nan")
    return loaded


def findings(metrics: StepMetrics) -> list[Finding]:
    return [Finding.from_json(finding) for finding in metrics.findings]


def until_it_stops(run: Run) -> tuple[list[StepMetrics], TrainingError]:
    seen: list[StepMetrics] = []
    with pytest.raises(TrainingError) as stopped:
        seen.extend(run)
    return seen, stopped.value


def test_a_broken_row_is_logged_and_named_before_the_run_stops() -> None:
    loaded = with_poison("deepseek_v3")
    seen, error = until_it_stops(run_of(loaded, poisoned(rows("labels", 32), 21), learning_rate=1e-3))
    assert [metrics.step for metrics in seen] == [1, 2, 3, 4, 5, 6]
    assert [metrics.applied for metrics in seen] == [True] * 5 + [False]
    (found,) = findings(seen[-1])
    assert [row.row_id for row in found.rows] == ["rows.jsonl:22"]
    assert found.origin is not None
    assert found.origin.module == "model.embed_tokens.weight"
    assert isinstance(error, NonFiniteError)
    assert str(error) == str(found)


def test_a_skipped_window_leaves_no_trace_but_its_line() -> None:
    """The same parameters, bit for bit, as a run that never saw the rows of that window."""
    samples = rows("labels", 32)
    loaded, other = with_poison("deepseek_v3"), adapted("deepseek_v3")
    settings = {"learning_rate": 1e-2, "lr_scheduler_type": "linear", "max_steps": 7}
    seen = list(run_of(loaded, poisoned(samples, 21), health={"non_finite": "skip"}, **settings))
    expected = list(run_of(other, samples[:20] + samples[24:], **settings))
    assert [(m.step, m.applied) for m in seen if m.step == 6] == [(6, False), (6, True)]
    assert [m.loss for m in seen if m.applied] == [m.loss for m in expected]
    assert torch.equal(trained(loaded), trained(other))


def once(loaded: Loaded) -> Callable[[], None]:
    """What makes the next forward overflow in layer 1, and no later one."""
    planted = [False]

    def overflow(_: object, __: object, output: torch.Tensor) -> torch.Tensor | None:
        if not planted[0]:
            return None
        planted[0] = False
        return output * 3e38 * 3e38

    loaded.model.model.layers[1].mlp.register_forward_hook(overflow)
    return lambda: planted.__setitem__(0, True)


def halved(state: State) -> State:
    """The state with every learning rate halved."""
    schedule = state.values["schedule"]
    rates = {key: [rate / 2 for rate in schedule[key]] for key in ("base_lrs", "_last_lr")}
    groups = [
        group | {key: group[key] / 2 for key in ("lr", "initial_lr")} for group in state.values["groups"]
    ]
    return replace(state, values={**state.values, "schedule": {**schedule, **rates}, "groups": groups})


def test_a_rollback_goes_on_from_the_last_state_at_half_the_rate_bit_for_bit() -> None:
    settings: dict[str, Any] = {"learning_rate": 1e-2, "max_steps": 9, "health": {"non_finite": "rollback"}}
    samples = rows("labels", 32)
    loaded = adapted("deepseek_v3", dropout=0.2)
    plant, run = once(loaded), run_of(loaded, samples, **settings)
    seen = list(islice(run, 4))
    state = run.state()
    seen += islice(run, 2)
    plant()
    seen += islice(run, 4)
    after = run.state()
    seen += run
    assert [(m.step, m.applied) for m in seen[5:8]] == [(6, True), (7, False), (5, True)]
    (found,) = findings(seen[6])
    assert (found.action, found.step) == ("rollback", 7)
    assert str(found).endswith("back to the last checkpoint, with a lower learning rate")
    assert seen[7].learning_rate == seen[4].learning_rate / 2

    other = adapted("deepseek_v3", dropout=0.2)
    again = list(run_of(other, samples, resume=halved(state), history=seen[:4], **settings))
    assert lines_of(again) == lines_of(seen[7:])
    assert torch.equal(trained(loaded), trained(other))
    assert seen[-1].step == 9

    third = adapted("deepseek_v3", dropout=0.2)  # as if the process had ended after the rollback
    resumed = run_of(third, samples, resume=after, history=seen[:10], **settings)
    assert lines_of(resumed) == lines_of(seen[10:])
    assert torch.equal(trained(loaded), trained(third))


def test_every_rollback_lowers_the_rate_and_one_too_many_stops_where_the_state_can_be_taken() -> None:
    run = run_of(
        with_poison("llama"), poisoned(rows("labels", 32), 21),
        learning_rate=1e-2, lr_scheduler_type="constant", health={"non_finite": "rollback"},
    )  # fmt: skip
    seen = list(islice(run, 4))
    run.state()
    later, _ = until_it_stops(run)
    seen += later
    assert [(m.step, m.applied) for m in seen[3:]] == [
        (4, True), (5, True), (6, False), (5, True), (6, False), (5, True), (6, False),
    ]  # fmt: skip
    assert [m.learning_rate for m in seen if m.step == 5] == [1e-2, 5e-3, 2.5e-3]
    assert [findings(m)[0].action for m in seen if not m.applied] == ["rollback", "rollback", "stop"]
    assert run.state().step == 5


def test_a_rollback_passes_over_a_state_whose_adapter_is_broken_itself() -> None:
    loaded = adapted("deepseek_v3")
    run = run_of(loaded, rows("labels", 32), max_steps=6, health={"non_finite": "rollback"})
    seen = list(islice(run, 2))
    run.state()
    seen += islice(run, 2)
    with torch.no_grad():
        next(p for p in loaded.model.parameters() if p.requires_grad).fill_(math.nan)
    assert not run.state().finite
    seen += run
    assert [m.step for m in seen] == [1, 2, 3, 4, 5, 3, 4, 5, 6]
    (found,) = [finding for m in seen for finding in findings(m)]
    assert found.origin is not None
    assert found.origin.what == "parameter"
    assert bool(torch.isfinite(trained(loaded)).all())


def test_without_a_state_to_go_back_to_a_rollback_stops_and_says_so() -> None:
    run = run_of(with_poison("llama"), poisoned(rows("labels", 16), 9), health={"non_finite": "rollback"})
    _, error = until_it_stops(run)
    assert "there is no checkpoint to go back to yet" in str(error)


def test_too_many_skipped_windows_stop_the_run() -> None:
    samples = rows("labels", 16)
    for index in (4, 8, 12):
        samples = poisoned(samples, index)
    health = {"non_finite": "skip", "max_skipped_steps": 2}
    seen, _ = until_it_stops(run_of(with_poison("llama"), samples, health=health))
    assert [(m.step, m.applied) for m in seen] == [(1, True), (2, False), (2, False), (2, False)]
    assert [f.action for m in seen for f in findings(m)] == ["skip", "skip", "stop"]


def with_a_wrong_label() -> list[Sample]:
    """It is in step 75 of four rows each, and makes the loss spike."""
    samples = rows("labels", 320)
    samples[298] = row("Case 1: the heart hurts. ", "zzQQ!!xx##yy", "rows.jsonl:299")
    return samples


SPIKE: dict[str, Any] = {"learning_rate": 5e-3, "lr_scheduler_type": "constant", "max_steps": 78}


def lines_of(steps: Iterable[StepMetrics]) -> list[StepMetrics]:
    return [replace(m, seconds=0) for m in steps]


def test_a_warning_changes_no_step() -> None:
    quiet, told = adapted("llama"), adapted("llama")
    silent = lines_of(run_of(quiet, with_a_wrong_label(), health={"loss_spike": "ignore"}, **SPIKE))
    spoken = lines_of(run_of(told, with_a_wrong_label(), **SPIKE))
    assert not any(m.findings for m in silent)
    (found,) = [f for m in spoken for f in findings(m)]
    assert (found.kind, found.action, found.rows[0].row_id) == ("loss_spike", "warn", "rows.jsonl:299")
    assert torch.equal(trained(quiet), trained(told))
    assert [replace(m, findings=()) for m in spoken] == silent


@pytest.mark.parametrize("at", [40, 76])
def test_a_resumed_run_says_what_the_uninterrupted_one_says(at: int) -> None:
    """Before and after a spike; the steps that were logged go in again."""
    expected = lines_of(run_of(adapted("llama"), with_a_wrong_label(), **SPIKE))
    run = run_of(adapted("llama"), with_a_wrong_label(), **SPIKE)
    before = lines_of(islice(run, at))
    state = run.state()
    run.close()
    resumed = run_of(adapted("llama"), with_a_wrong_label(), resume=state, history=before, **SPIKE)
    assert before + lines_of(resumed) == expected
    assert [m.step for m in expected if m.findings] == [75]


def test_early_stopping_ends_the_run_in_order_and_it_stays_ended() -> None:
    samples = rows("labels", 32)
    held_out = Batches(samples=tuple(rows("labels", 8, seed=9)), batch_size=4, shuffle=False)
    settings: dict[str, Any] = {
        "eval_batches": held_out, "eval_steps": 2, "max_steps": 20,
        "health": {"early_stopping_patience": 1, "early_stopping_threshold": 99.0},
    }  # fmt: skip
    run = run_of(adapted("deepseek_v3"), samples, **settings)
    seen = list(run)
    assert [m.step for m in seen] == [1, 2, 3, 4]
    (found,) = findings(seen[-1])
    assert (found.kind, found.action, found.evidence["best_step"]) == ("eval_worse", "stop", 2)
    assert list(run_of(adapted("deepseek_v3"), samples, resume=run.state(), history=seen, **settings)) == []


def test_an_evaluation_that_is_not_finite_is_in_the_log_too() -> None:
    held_out = Batches(samples=tuple(poisoned(rows("labels", 8), 5)), batch_size=4, shuffle=False)
    run = run_of(with_poison("deepseek_v3"), rows("labels", 16), eval_batches=held_out, max_steps=2)
    seen, error = until_it_stops(run)
    assert math.isnan(seen[-1].eval_loss or 0)
    assert isinstance(error, NonFiniteError)
    assert "the evaluation loss is not finite in rows.jsonl:6" in str(error)


def test_a_routing_that_collapses_on_the_way_is_named_with_its_layer() -> None:
    samples = rows("text", 64)
    held_out = Batches(samples=tuple(rows("text", 32, seed=5)), batch_size=4, shuffle=False)
    loaded = adapted("deepseek_v2")
    run = run_of(loaded, samples, eval_batches=held_out, eval_steps=2, max_steps=4, learning_rate=1e-4)
    assert not any(m.findings for m in islice(run, 3))
    push = loaded.model.model.layers[1].mlp.gate
    push.register_forward_pre_hook(lambda _, inputs: (torch.ones_like(inputs[0]),))
    (found,) = findings(next(run))
    assert (found.kind, found.evidence["layer"], found.action) == ("routing_collapse", 1, "warn")


def test_float16_overflows_are_logged_and_a_scale_that_keeps_falling_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """float16 itself needs a GPU; its loss scaling is the same on the CPU."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda *_, **__: scaler)
    loaded = adapted("llama")
    passes = iter(range(1000))
    loaded.model.model.norm.register_full_backward_pre_hook(
        lambda _, gradients: (gradients[0] * (math.inf if 4 <= next(passes) < 14 else 1.0),)
    )
    seen = list(run_of(loaded, rows("labels", 32), max_steps=8))
    assert [m.applied for m in seen] == [True] * 4 + [False] * 10 + [True] * 4
    assert [m.loss_scale for m in seen[4:15]] == [2.0**power for power in range(16, 5, -1)]
    assert [m.step for m in seen[3:15]] == [4] + [5] * 11
    (found,) = [f for m in seen for f in findings(m)]
    assert (found.kind, found.action) == ("loss_scale", "warn")
    assert found.change == ("training.fp16: false", "training.bf16: true")


IN_TWO = """
import json, math, sys
from pathlib import Path
import torch
from health_runs import adapted, rows
from seektune.config.training import HealthConfig
from seektune.data.batches import Batches
from seektune.errors import NonFiniteError
from seektune.training.loop import train
from seektune.training.world import world
from test_watch import poisoned, with_poison

rank, size = world()
policy, index = sys.argv[1], int(sys.argv[2])
loaded = with_poison("deepseek_v3")
samples = tuple(poisoned(rows("labels", 32), index))
batches = Batches(samples=samples, batch_size=2, rank=rank, world_size=size, shuffle=False)
run = train(loaded, batches, max_steps=6, learning_rate=1e-3, health=HealthConfig(non_finite=policy),
            eval_batches=Batches(samples=samples[:8], batch_size=2, rank=rank, world_size=size), eval_steps=3)
seen = []
try:
    for metrics in run:
        seen.append(metrics)
        if metrics.step == 2:
            run.state()
    ended = ""
except NonFiniteError as error:
    ended = str(error)
told = [finding for metrics in seen for finding in metrics.findings]
lines = [[m.step, m.applied, repr(m.loss), m.tokens] for m in seen]
facts = [lines, ended, json.dumps(told)]
everywhere = [None] * size
torch.distributed.all_gather_object(everywhere, facts)
assert everywhere[0] == everywhere[1], everywhere
names = {row["row_id"] for finding in told for row in finding["rows"]}
assert names == {f"rows.jsonl:{index + 1}"}, names
assert {finding["origin"]["module"] for finding in told} == {"model.embed_tokens.weight"}
steps = [(m.step, m.applied) for m in seen]
broken = next(step for step, applied in steps if not applied)
if policy == "skip":
    assert steps.count((broken, False)) == 1 and steps[-1] == (6, True)
elif policy == "stop":
    assert steps[-1] == (broken, False) and "the run stops here" in ended
else:
    assert [f["action"] for f in told] == ["rollback", "rollback", "stop"]
"""


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["skip", "stop", "rollback"])
@pytest.mark.parametrize("index", [16, 18])
def test_two_processes_decide_alike_whoever_has_the_broken_row(
    policy: str, index: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    run_script(tmp_path, IN_TWO, policy, str(index))
