"""The trained-what gate: each check passes on a sound run and fails on the fault planted for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from seektune.adapters.attach import activate, attach, deltas_of, wrappers_of
from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.inventory import Gate, inventory
from seektune.adapters.lowrank import LowRank
from seektune.adapters.store import load_adapter, save_adapter
from seektune.config.adapter import AdapterSpec
from seektune.errors import GateError
from seektune.models.load import Loaded, load_model

Build = Callable[..., Loaded]
ATTENTION = "model.layers.0.self_attn.q_a_proj"
EXPERTS = "model.layers.1.mlp.experts"


class Run:
    """A few steps of a run, one at a time, so that a fault can be planted between any two."""

    def __init__(self, loaded: Loaded, rows: Tensor, learning_rate: float = 1e-2) -> None:
        self.loaded, self.rows, self.learning_rate = loaded, rows, learning_rate
        self.gate = Gate(loaded)
        trainable = [p for p in loaded.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=learning_rate)
        loaded.model.train()

    def backward(self) -> None:
        self.loaded.model(self.rows, labels=self.rows, use_cache=False).loss.backward()

    def update(self) -> None:
        self.gate.before_update()
        self.optimizer.step()
        self.gate.after_update(self.learning_rate)
        self.optimizer.zero_grad()

    def step(self) -> None:
        self.backward()
        self.gate.after_backward()
        self.update()


@pytest.fixture
def run(adapted: Build, rows: Tensor) -> Run:
    return Run(adapted("deepseek_v3", target_modules=["attention", "shared", "routed"]), rows)


@pytest.mark.parametrize("name", ["llama", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4"])
def test_a_sound_run_passes_every_check(name: str, adapted: Build, rows: Tensor) -> None:
    targets = ["all-linear"] + ["routed"] * (name != "llama")
    run = Run(adapted(name, target_modules=targets, lora_dropout=0.1), rows)
    for _ in range(3):
        run.step()
    checks = run.gate.finish().checks
    assert (
        checks["table"] is checks["gradients"] is checks["first_update"] is checks["frozen_unchanged"] is True
    )
    assert checks["router_unchanged"] is (None if name == "llama" else True)
    assert checks["router_tensors"] == {"llama": 0, "deepseek_v2": 1, "deepseek_v4": 6}.get(name, 2)
    assert checks["unused_groups"] == []
    json.dumps(run.gate.inventory.to_json())


def test_the_table_counts_group_by_group(adapted: Build) -> None:
    loaded = adapted("deepseek_v3", target_modules=["attention", "routed"], experts={1: (0, 5)}, r=4)
    table = inventory(loaded)
    rows = {row.group: row for row in table.rows}
    assert list(rows) == ["attention", "dense", "shared", "routed"]
    assert (rows["attention"].matched, rows["attention"].existing) == (10, 10)
    assert (rows["dense"].matched, rows["dense"].existing, rows["dense"].trainable) == (0, 3, 0)
    assert rows["dense"].parameters == 3 * 64 * 128
    assert rows["routed"].parameters == 8 * 3 * 64 * 32
    assert rows["routed"].trainable == 2 * 4 * (64 + 64 + 32 + 64)
    assert rows["routed"].bytes == 4 * rows["routed"].trainable
    assert table.trainable == sum(p.numel() for p in loaded.model.parameters() if p.requires_grad)
    base = load_model("tiny/deepseek_v3")
    assert table.total_parameters == sum(p.numel() for p in base.model.parameters())
    assert "1 of 1" in str(table)
    activate(loaded, None)
    assert inventory(loaded).trainable == 0
    assert inventory(base).total_parameters == table.total_parameters


# Before step 0.


def test_nothing_attached_is_an_error() -> None:
    with pytest.raises(GateError, match="no adapter is active"):
        Gate(load_model("tiny/llama"))


def test_a_group_that_lost_its_adapters_is_an_error(adapted: Build) -> None:
    loaded = adapted("deepseek_v3", target_modules=["attention", "routed"])
    del loaded.model.get_submodule(EXPERTS).adapter
    with pytest.raises(GateError, match=f"{EXPERTS} was asked for but carries no adapter"):
        Gate(loaded)


def test_an_adapter_nobody_asked_for_is_an_error(adapted: Build) -> None:
    loaded = adapted("deepseek_v3", target_modules=["attention", "dense"])
    loaded.model.attachment.specs["default"] = AdapterSpec(target_modules=["attention"])
    with pytest.raises(GateError, match=r"model.layers.0.mlp.gate_proj carries an adapter nobody asked for"):
        Gate(loaded)


def test_a_base_weight_that_would_train_is_an_error(adapted: Build) -> None:
    loaded = adapted("deepseek_v3")
    loaded.model.get_submodule(ATTENTION).weight.requires_grad_(True)
    with pytest.raises(GateError, match=f"{ATTENTION}.weight is not part of the adapter but would train"):
        Gate(loaded)


def test_a_frozen_delta_is_an_error_before_the_first_step(adapted: Build) -> None:
    loaded = adapted("deepseek_v3")
    deltas_of(loaded, "default")[ATTENTION].lora_B.requires_grad_(False)
    with pytest.raises(GateError, match=f"{ATTENTION}.lora_B is frozen"):
        Gate(loaded)


def test_a_delta_cast_to_bfloat16_is_an_error(adapted: Build) -> None:
    loaded = adapted("deepseek_v3")
    loaded.model.to(torch.bfloat16)
    with pytest.raises(GateError, match=f"{ATTENTION}.lora_A is torch.bfloat16: adapters stay float32"):
        Gate(loaded)


# After the first backward.


def test_a_b_frozen_by_mistake_is_named(run: Run) -> None:
    _linear(run, ATTENTION).lora_B.requires_grad_(False)
    run.backward()
    with pytest.raises(GateError, match=f"{ATTENTION}.lora_B has no gradient") as caught:
        run.gate.after_backward()
    assert str(caught.value).count("\n") == 1
    assert run.gate.inventory.checks["gradients"] is False


def _linear(run: Run, site: str) -> LowRank:
    delta = deltas_of(run.loaded, "default")[site]
    assert isinstance(delta, LowRank)
    return delta


def _routed(run: Run) -> ExpertsLowRank:
    delta = deltas_of(run.loaded, "default")[EXPERTS]
    assert isinstance(delta, ExpertsLowRank)
    return delta


@pytest.mark.parametrize(("value", "words"), [(0.0, "gradient of zero"), (float("nan"), "not finite")])
def test_a_gradient_of_zero_or_nan_is_named(run: Run, value: float, words: str) -> None:
    run.backward()
    _linear(run, ATTENTION).lora_B.grad.fill_(value)
    with pytest.raises(GateError, match=rf"{ATTENTION}.lora_B has .*{words}"):
        run.gate.after_backward()


def test_an_expert_that_received_tokens_but_no_gradient_is_named(run: Run) -> None:
    run.backward()
    delta = _routed(run)
    row = int(delta.reached_rows().nonzero()[0])
    delta.down_B.grad[row] = 0
    with pytest.raises(GateError, match=f"{EXPERTS}.down_B of expert {row} has a gradient of zero"):
        run.gate.after_backward()


def test_a_frozen_expert_tensor_is_named(run: Run) -> None:
    _routed(run).gate_up_B.requires_grad_(False)
    run.backward()
    with pytest.raises(GateError, match=f"{EXPERTS}.gate_up_B of expert . has no gradient"):
        run.gate.after_backward()


def test_experts_met_only_by_tokens_without_loss_are_not_asked_for_a_gradient(run: Run) -> None:
    model, labels = run.loaded.model, run.rows.clone()
    labels[:, :-1] = -100  # the last layer's experts learn from one token per row
    model(run.rows, labels=labels, use_cache=False).loss.backward()
    reached = _routed(run).reached_rows()
    assert 0 < int(reached.sum()) < 8
    run.gate.after_backward()
    run.update()
    assert run.gate.finish().checks["experts_never_hit"] == 8 - int(reached.sum())


def test_modules_that_did_not_run_are_not_counted_until_the_end(adapted: Build, rows: Tensor) -> None:
    run = Run(adapted("deepseek_vl", target_modules=["attention", "vision"]), rows)
    run.step()  # text only
    with pytest.raises(GateError, match="group vision trains, but no batch ever used it"):
        run.gate.finish()
    assert run.gate.inventory.checks["unused_groups"] == ["vision"]


def test_a_step_without_any_adapted_module_is_an_error(run: Run) -> None:
    with torch.no_grad():
        run.loaded.model(run.rows)
    with pytest.raises(GateError, match="no adapted module took part"):
        run.gate.after_backward()


def test_a_switched_off_experts_implementation_is_noticed_at_the_end(run: Run) -> None:
    run.loaded.model.set_experts_implementation("eager")
    run.step()
    with pytest.raises(GateError, match="group routed trains, but no batch ever used it"):
        run.gate.finish()


# After the first update.


def _frozen_tensors(loaded: Loaded) -> Iterator[tuple[str, Tensor]]:
    yield f"{ATTENTION}.weight", loaded.model.get_submodule(ATTENTION).weight
    yield f"{EXPERTS}.down_proj", loaded.model.get_submodule(EXPERTS).down_proj
    yield "lm_head.weight", loaded.model.lm_head.weight


@pytest.mark.parametrize("which", range(3))
def test_a_base_weight_that_moved_with_the_first_update_is_named(run: Run, which: int) -> None:
    name, tensor = list(_frozen_tensors(run.loaded))[which]
    run.backward()
    run.gate.after_backward()
    tensor.data.view(-1)[-1].add_(1e-6)
    with pytest.raises(GateError, match=f"{name} is frozen but changed"):
        run.update()
    assert run.gate.inventory.checks["first_update"] is False


def test_a_delta_that_had_a_gradient_but_is_not_in_the_optimiser_is_named(run: Run) -> None:
    left_out = _linear(run, ATTENTION).lora_B
    (group,) = run.optimizer.param_groups
    group["params"] = [p for p in group["params"] if p is not left_out]
    run.backward()
    run.gate.after_backward()
    with pytest.raises(GateError, match=f"{ATTENTION}.lora_B had a gradient but did not change"):
        run.update()


def test_the_check_waits_for_a_learning_rate_above_zero(run: Run) -> None:
    for rate in (0.0, 1e-3):
        for group in run.optimizer.param_groups:
            group["lr"] = run.learning_rate = rate
        assert run.gate.inventory.checks["first_update"] is None
        run.step()
    assert run.gate.inventory.checks["first_update"] is True


def test_a_learning_rate_below_rounding_is_no_fault(adapted: Build, rows: Tensor) -> None:
    run = Run(adapted("llama", init_lora_weights=False), rows, learning_rate=1e-12)
    run.step()
    assert run.gate.inventory.checks["first_update"] is True


# At the end.


@pytest.mark.parametrize("steps", [0, 2])
def test_a_moved_router_buffer_is_named_also_when_the_run_died_early(run: Run, steps: int) -> None:
    for _ in range(steps):
        run.step()
    run.loaded.model.model.layers[1].mlp.gate.e_score_correction_bias[0] += 1e-3
    with pytest.raises(GateError, match=r"layers.1.mlp.gate.e_score_correction_bias belongs to the router"):
        run.gate.finish()
    checks = run.gate.inventory.checks
    assert checks["router_unchanged"] is False
    assert checks["frozen_unchanged"] is True


def test_a_moved_router_weight_and_hash_table_are_named(adapted: Build, rows: Tensor) -> None:
    run = Run(adapted("deepseek_v4"), rows)
    run.step()
    run.loaded.model.model.layers[1].mlp.gate.weight.data[0, 0] += 1e-3
    run.loaded.model.model.layers[0].mlp.gate.tid2eid[5, 0] += 1
    with pytest.raises(GateError, match=r"layers.1.mlp.gate.weight") as caught:
        run.gate.finish()
    assert "layers.0.mlp.gate.tid2eid belongs to the router" in str(caught.value)


@pytest.mark.parametrize("which", range(3))
def test_a_base_weight_that_moved_later_is_named_at_the_end(run: Run, which: int) -> None:
    name, tensor = list(_frozen_tensors(run.loaded))[which]
    run.step()
    tensor.data.view(-1)[0].mul_(1.5)
    with pytest.raises(GateError, match=f"{name} is frozen but changed"):
        run.gate.finish()
    assert run.gate.inventory.checks["frozen_unchanged"] is False
    assert run.gate.inventory.checks["router_unchanged"] is True


def test_a_replaced_base_weight_is_named(run: Run) -> None:
    head = run.loaded.model.lm_head
    head.weight = nn.Parameter(head.weight.detach() * 1.01, requires_grad=False)
    with pytest.raises(GateError, match=r"lm_head\.weight is frozen but changed"):
        run.gate.finish()


def test_a_rotary_table_that_follows_the_row_s_length_may_move(run: Run) -> None:
    run.step()
    run.loaded.model.model.rotary_emb.inv_freq.mul_(0.5)
    run.gate.finish()


def test_another_adapter_that_moved_is_named(adapted: Build, rows: Tensor) -> None:
    loaded = attach(adapted("llama"), AdapterSpec(target_modules=["dense"]), name="second")
    run = Run(loaded, rows)
    run.step()
    deltas_of(loaded, "default")["model.layers.0.self_attn.q_proj"].lora_A.data[0, 0] += 1
    with pytest.raises(GateError, match=r"q_proj.deltas.default.lora_A is frozen but changed"):
        run.gate.finish()


def test_experts_never_hit_are_counted(adapted: Build, rows: Tensor) -> None:
    run = Run(adapted("deepseek_v3", target_modules=["routed"]), rows[:1, :3])
    run.step()
    assert 8 - 3 * 2 <= run.gate.finish().checks["experts_never_hit"] < 8
    assert run.gate.inventory.checks["experts_adapted"] == 8


def test_each_gate_keeps_its_own_record(run: Run) -> None:
    run.step()
    run.gate.finish()
    assert Gate(run.loaded).finish().checks["experts_never_hit"] == 8
    with pytest.raises(GateError, match="no adapted module took part"):
        Gate(run.loaded).after_backward()


def test_an_adapter_that_peft_wrote_passes_the_gate_when_trained_on(
    adapted: Build, rows: Tensor, tmp_path: Path
) -> None:
    save_adapter(adapted("deepseek_v3", target_modules=["all-linear", "routed"]), tmp_path)
    (tmp_path / "seektune.json").unlink()
    run = Run(load_adapter(load_model("tiny/deepseek_v3"), tmp_path), rows)
    run.step()
    assert run.gate.finish().checks["first_update"] is True


def test_checkpointed_layers_are_seen_by_the_gate(adapted: Build, rows: Tensor) -> None:
    loaded = adapted("deepseek_v3", target_modules=["attention", "shared", "routed"])
    loaded.model.activation_checkpointing_enable({"use_reentrant": False})
    run = Run(loaded, rows)
    _linear(run, ATTENTION).lora_B.requires_grad_(False)
    run.backward()
    assert all(w.active for w in wrappers_of(loaded.model).values())
    assert _routed(run).reached_rows().any()
    with pytest.raises(GateError, match=f"{ATTENTION}.lora_B has no gradient"):
        run.gate.after_backward()


def test_a_record_carries_what_passed_and_what_was_used(run: Run, adapted: Build, rows: Tensor) -> None:
    run.step()
    record = json.loads(json.dumps(run.gate.record()))
    finished = run.gate.finish().checks
    later = Gate(adapted("deepseek_v3", target_modules=["attention", "shared", "routed"]))
    later.resume(record)
    assert later.record() == record
    later.after_backward()  # nothing ran in this process, and it is not asked again
    assert later.finish().checks == finished


def test_a_record_from_before_the_first_update_leaves_that_check_to_come(run: Run, adapted: Build) -> None:
    later = Run(adapted("deepseek_v3", target_modules=["attention", "shared", "routed"]), run.rows)
    later.gate.resume(run.gate.record())
    assert later.gate.inventory.checks["gradients"] is None
    later.step()
    assert later.gate.inventory.checks["first_update"] is True


@pytest.mark.parametrize("which", ["model.norm.weight", "model.layers.1.mlp.gate.e_score_correction_bias"])
def test_a_record_of_another_base_is_refused(which: str, run: Run, adapted: Build) -> None:
    run.step()
    record = run.gate.record()
    other = adapted("deepseek_v3", target_modules=["attention", "shared", "routed"])
    tensors = dict(other.model.named_parameters()) | dict(other.model.named_buffers())
    tensors[which].data.view(-1)[0] += 1
    with pytest.raises(GateError, match="the base is not the one the run began with"):
        Gate(other).resume(record)


def staged(adapted: Build, rows: Tensor) -> Run:
    """At the beginning of the first of two stages: the first layer, then the second."""
    run = Run(adapted("deepseek_v3", target_modules=["attention", "routed"]), rows)
    deltas = deltas_of(run.loaded, "default")
    layers = [[site for site in deltas if f".layers.{number}." in site] for number in (0, 1)]
    run.gate = Gate(run.loaded, {"stage 1 of 2": layers[0], "stage 2 of 2": layers[1]})
    begin(run, 0)
    return run


def begin(run: Run, stage: int) -> None:
    for site, delta in deltas_of(run.loaded, "default").items():
        delta.requires_grad_(f".layers.{stage}." in site)
    run.gate.begin(stage)


def test_gradients_and_first_update_are_proven_in_every_stage(adapted: Build, rows: Tensor) -> None:
    run = staged(adapted, rows)
    run.step()
    assert [stage.checks["first_update"] for stage in run.gate.inventory.stages] == [True, None]
    begin(run, 1)
    run.backward()
    run.gate.after_backward()
    assert [stage.checks["gradients"] for stage in run.gate.inventory.stages] == [True, True]
    run.gate.before_update()
    with pytest.raises(
        GateError, match=r"after the first update of stage 2 of 2:\n.*layers\.1.* did not change"
    ):
        run.gate.after_update(run.learning_rate)  # the optimiser made no step
    assert [stage.checks["first_update"] for stage in run.gate.inventory.stages] == [True, False]
    assert run.gate.inventory.checks["first_update"] is False


def test_what_rests_may_not_move_in_the_first_update_or_later(adapted: Build, rows: Tensor) -> None:
    run = staged(adapted, rows)
    resting = run.loaded.model.get_parameter("model.layers.1.self_attn.o_proj.deltas.default.lora_A")
    run.step()
    resting.data[0, 0] += 1
    with pytest.raises(GateError, match=r"layers\.1\.self_attn\.o_proj\.lora_A must rest in this stage"):
        run.gate.finish()
    run = staged(adapted, rows)
    run.backward()
    run.gate.after_backward()
    run.gate.before_update()
    run.optimizer.step()
    run.loaded.model.get_parameter("model.layers.1.self_attn.o_proj.deltas.default.lora_A").data[0, 0] += 1
    with pytest.raises(GateError, match=r"first update of stage 1 of 2:\n.*lora_A must rest in this stage"):
        run.gate.after_update(run.learning_rate)


def test_experts_that_only_ran_while_they_rested_were_never_hit(adapted: Build, rows: Tensor) -> None:
    run = staged(adapted, rows)
    run.step()
    assert _routed(run).reached_rows().any()  # a gradient passed through them
    assert run.gate.finish().checks["experts_never_hit"] == 8
    assert run.gate.inventory.checks["unused_groups"] == []  # routed: its stage has not begun
    begin(run, 1)
    run.step()
    assert run.gate.finish().checks["experts_never_hit"] < 8


def test_a_record_in_the_middle_of_a_stage_carries_what_each_stage_passed(
    adapted: Build, rows: Tensor
) -> None:
    run = staged(adapted, rows)
    run.step()
    begin(run, 1)
    record = json.loads(json.dumps(run.gate.record()))
    later = staged(adapted, rows)
    later.gate.resume(record)
    begin(later, 1)
    assert later.gate.record() == record
    later.step()
    assert [stage.checks["first_update"] for stage in later.gate.inventory.stages] == [True, True]
