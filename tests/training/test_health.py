"""Policy on plain numbers first, then real tiny runs: healthy ones, and ones with a planted fault."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from health_runs import RARE, adapted, row, rows, run, start
from hypothesis import given
from hypothesis import strategies as st

from seektune.config.training import HealthConfig, TrainingConfig
from seektune.models.routing import routing_profile
from seektune.training.finding import Finding
from seektune.training.health import QUIET, Extras, Health
from seektune.types import RoutingProfile, StepMetrics

NAN = float("nan")


def step(number: int, loss: float = 1.0, grad_norm: float = 1.0, **more: Any) -> StepMetrics:
    return StepMetrics(number, number / 10, loss, 1e-4, grad_norm, 100, 0.1, **more)


def settled(steps: int = 60, **policies: Any) -> Health:
    """A run that has gone well so far."""
    health = Health(HealthConfig(**policies))
    for number in range(1, steps + 1):
        assert health.observe(step(number, loss=1 + 0.05 * (number % 3))) == ()
    return health


def test_a_broken_number_is_always_told_and_never_enters_the_history() -> None:
    health = settled(non_finite="skip", max_skipped_steps=9)
    for number in range(61, 64):
        (found,) = health.observe(step(number, loss=NAN))
        assert (found.kind, found.step, found.action) == ("non_finite", number, "skip")
        assert found.evidence["loss"] != found.evidence["loss"]
    assert health.observe(step(64)) == ()


@pytest.mark.parametrize(
    ("metrics", "extras"),
    [
        (step(1, loss=float("inf")), Extras()),
        (step(1, grad_norm=NAN), Extras()),
        (step(1), Extras(parameters_finite=False)),
        (step(1, grad_norm=float("inf")), Extras(loss_scale=1.0)),
    ],
)
def test_loss_gradient_and_parameters_are_all_asked(metrics: StepMetrics, extras: Extras) -> None:
    assert [found.kind for found in Health().observe(metrics, extras)] == ["non_finite"]


def test_too_many_skipped_steps_in_a_row_stop_the_run() -> None:
    health = settled(non_finite="skip", max_skipped_steps=2)
    actions = [health.observe(step(number, loss=NAN))[0].action for number in (61, 62)]
    assert health.observe(step(63)) == ()
    actions += [health.observe(step(number, loss=NAN))[0].action for number in (64, 65, 66)]
    assert actions == ["skip", "skip", "skip", "skip", "stop"]


def test_rollbacks_are_counted_and_one_too_many_stops() -> None:
    health = settled(loss_spike="rollback", max_rollbacks=2)
    seen = []
    for _ in range(3):
        (found,) = health.observe(step(61, loss=9.0))
        seen.append((found.action, health.rollbacks))
    assert seen == [("rollback", 1), ("rollback", 2), ("stop", 2)]


def test_a_policy_of_ignore_silences_its_kind() -> None:
    assert settled(loss_spike="ignore").observe(step(61, loss=9.0)) == ()


def test_a_warning_is_not_repeated_at_once_but_a_skip_is() -> None:
    def spikes(policy: str) -> list[int]:
        health = settled(loss_spike=policy, max_skipped_steps=99)
        found = [f for n in range(61, 61 + 2 * QUIET, 20) for f in health.observe(step(n, loss=9.0))]
        return [finding.step for finding in found if finding.kind == "loss_spike"]

    assert spikes("warn") == [61, 121]
    assert spikes("skip") == [61, 81, 101, 121, 141]


def test_what_stays_true_is_said_again_when_the_run_is_twice_as_long() -> None:
    health, said = Health(), []
    for number in range(1, 1001):
        said += health.observe(step(number, loss=3 + 0.01 * (number % 3)))
    assert [(found.kind, found.step) for found in said] == [
        ("plateau", 200), ("plateau", 400), ("plateau", 800),
    ]  # fmt: skip


def logged(metrics: StepMetrics, found: Iterable[Finding]) -> StepMetrics:
    """The step as the records have it."""
    findings = [finding.to_json() for finding in found]
    return replace(metrics, findings=tuple(json.loads(json.dumps(findings))))


@pytest.mark.parametrize("at", [1, 30, 61, 62, 70])
@pytest.mark.parametrize("policy", ["warn", "skip", "rollback"])
def test_after_a_record_and_the_logged_steps_health_says_what_it_would_have_said(
    policy: str, at: int
) -> None:
    def fed(health: Health, numbers: range) -> list[StepMetrics]:
        """A spike at 61; after a rollback the run is at 59 again; evaluations, a scale, a long row."""
        told = []
        for number in numbers:
            spike = number == 61 and health.rollbacks == 0
            metrics = step(
                number - 3 * health.rollbacks, loss=9.0 if spike else 1 + 0.05 * (number % 3),
                eval_loss=1 + 0.1 * number if number % 5 == 0 else None, loss_scale=2.0**-number,
            )  # fmt: skip
            lengths = (900,) if number == 70 else (20, 30)
            found = health.observe(metrics, Extras(row_lengths=lengths, loss_scale=metrics.loss_scale))
            told.append(logged(metrics, found))
        return told

    policies = {"loss_spike": policy, "max_skipped_steps": 1}
    whole, first, second = (Health(HealthConfig(**policies)) for _ in range(3))
    expected = fed(whole, range(1, 80))
    before = fed(first, range(1, at + 1))
    second.resume(json.loads(json.dumps(first.record())), before)
    assert before + fed(second, range(at + 1, 80)) == expected
    assert {f["kind"] for m in expected for f in m.findings} == {
        "loss_spike",
        "long_row",
        "eval_worse",
        "loss_scale",
    }
    assert vars(second) == vars(whole)


def test_what_was_undone_is_forgotten() -> None:
    health = settled(divergence="rollback")
    before = deepcopy(vars(health))
    number = 60
    while not health.rollbacks:
        number += 1
        health.observe(step(number, loss=9.0, grad_norm=50.0, eval_loss=2.0))
    assert number > 62
    fresh = settled(divergence="rollback")
    assert health.observe(step(61)) == fresh.observe(step(61)) == ()
    assert vars(health) == vars(fresh) | {"rollbacks": 1, "_lowest": health._lowest}
    assert before["_steps"] == fresh._steps[:-1]


def test_without_patience_a_worse_evaluation_warns_and_with_it_the_run_stops() -> None:
    def actions(losses: list[float], **config: Any) -> list[tuple[int, str]]:
        health = Health(HealthConfig(**config))
        return [
            (f.step, f.action)
            for n, loss in enumerate(losses, 1)
            for f in health.observe(step(n, eval_loss=loss))
        ]

    worse = [2.0, 1.5, 1.6, 1.7, 1.8]
    assert actions(worse) == [(5, "warn")]
    assert actions(worse, early_stopping_patience=2) == [(4, "stop"), (5, "stop")]
    assert actions([2.0, 1.5, 1.51, 1.52, 1.53]) == []


def test_an_evaluation_may_come_after_its_step_was_observed() -> None:
    together, apart = Health(), Health()
    for number, loss in enumerate([2.0, 1.5, 1.6, 1.7, 1.8], 1):
        metrics = step(number, eval_loss=loss)
        said = apart.observe(step(number)) + apart.evaluated(metrics)
        assert together.observe(metrics) == said
    assert [found.kind for found in said] == ["eval_worse"]


def test_an_evaluation_that_got_worse_says_where_the_best_was() -> None:
    health, found = Health(HealthConfig(early_stopping_patience=2)), ()
    for number, loss in enumerate([2.0, 1.5, 1.6, 1.7], 1):
        found = health.observe(step(number, eval_loss=loss))
    assert found[0].evidence["best_step"] == 2
    assert found[0].change == ("training.num_train_epochs: 0.2",)


@given(st.lists(st.floats(0.01, 10) | st.just(NAN) | st.just(float("inf")), min_size=1, max_size=60))
def test_no_sequence_of_losses_breaks_it_and_none_that_is_not_finite_passes(losses: list[float]) -> None:
    health = Health(HealthConfig(non_finite="skip", max_skipped_steps=1000))
    for number, loss in enumerate(losses, 1):
        kinds = {found.kind for found in health.observe(step(number, loss=loss, grad_norm=abs(loss)))}
        assert ("non_finite" in kinds) is not (loss == loss and loss != float("inf"))


def scaled(infinities: set[int], steps: int = 60) -> list[Finding]:
    """A parameter under torch's own loss scaling, whose gradient overflows at the given steps."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([parameter], lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", growth_interval=20)
    health, found = Health(settings=TrainingConfig(fp16=True)), []
    for number in range(1, steps + 1):
        scaler.scale(parameter.sum()).backward()
        if number in infinities:
            assert parameter.grad is not None
            parameter.grad[0] = float("inf")
        scaler.unscale_(optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_([parameter], 1.0))
        found += health.observe(step(number, grad_norm=norm), Extras(loss_scale=scaler.get_scale()))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return found


def test_a_loss_scale_that_finds_its_level_raises_nothing() -> None:
    assert scaled({1, 2, 3, 4, 5, 6, 30, 55}) == []


def test_a_loss_scale_that_keeps_falling_asks_for_bfloat16() -> None:
    (found,) = scaled(set(range(20, 36)))
    assert (found.kind, found.step, found.action) == ("loss_scale", 28, "warn")
    assert found.change == ("training.fp16: false", "training.bf16: true")


def test_a_loss_scale_that_cannot_fall_any_further_is_a_gradient_that_is_not_finite() -> None:
    kinds = [found.kind for found in scaled(set(range(1, 25)))]
    assert kinds[0] == "loss_scale"
    assert kinds.count("non_finite") == 24 - 16  # sixteen halvings from 65536 to 1


def profile_of(loaded: Any, count: int = 16) -> RoutingProfile:
    return routing_profile(loaded, start(loaded, rows("text", count), batch_size=4).batches.epoch(0))


def test_a_routing_that_collapsed_names_its_layer() -> None:
    loaded = adapted("deepseek_v3", seed=2)
    health = Health(base_routing=profile_of(loaded))
    assert health.evaluated(step(1, eval_loss=1.0), profile_of(loaded)) == ()
    loaded.model.model.layers[1].mlp.gate.e_score_correction_bias[:2] += 50.0
    (found,) = health.evaluated(step(2, eval_loss=1.0), profile_of(loaded))
    assert found.kind == "routing_collapse"
    assert found.evidence["layer"] == 1
    assert found.evidence["top_share"] == 0.5


@pytest.mark.parametrize("name", ["llama", "deepseek_v3", "deepseek_v4"])
def test_a_nan_in_the_embedding_of_one_rows_token_is_named_with_the_row(name: str) -> None:
    samples = rows("labels", 32)
    samples[21] = replace(samples[21], input_ids=(0, RARE, *samples[21].input_ids[2:]))
    loaded = adapted(name)
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[RARE] = NAN
    (found,) = run(start(loaded, samples, shuffle=False, learning_rate=1e-3), 8).findings
    assert (found.kind, found.step, found.action) == ("non_finite", 6, "stop")
    assert [named.row_id for named in found.rows] == ["rows.jsonl:22"]
    assert found.origin is not None
    assert found.origin.module == "model.embed_tokens.weight"
    assert "rows.jsonl:22" in found.cause


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("name", ["qwen2", "deepseek_v2", "deepseek_v32"])
def test_an_overflow_in_a_layer_is_named_with_the_layer(name: str, layer: int) -> None:
    loaded = adapted(name)
    module = loaded.model.model.layers[layer].mlp
    module.register_forward_hook(lambda _m, _i, output: output * 3e38 * 3e38)
    (found,) = run(start(loaded, rows("labels", 8), learning_rate=1e-3), 2).findings
    assert found.kind == "non_finite"
    assert found.origin is not None
    assert (found.origin.layer, found.origin.what) == (layer, "output")
    assert f"model.layers.{layer}.mlp (layer {layer})" in found.cause


@pytest.mark.parametrize("name", ["llama", "deepseek_v3", "deepseek_v2_lite"])
def test_a_hundred_times_the_learning_rate_is_named_on_a_new_model(name: str) -> None:
    watched = run(start(adapted(name), rows("text"), learning_rate=0.3), 40)
    assert "divergence" in watched.kinds()
    for found in watched.findings:
        assert found.change[0] == "training.learning_rate: 0.03"
        assert "the learning rate 0.3 is too high" in found.cause


@pytest.mark.parametrize("name", ["qwen2", "deepseek_v3"])
def test_a_hundred_times_the_learning_rate_is_named_on_a_model_that_knows_something(name: str) -> None:
    learnt = run(start(adapted(name), rows("labels"), learning_rate=5e-3), 80)
    assert not learnt.findings
    watched = run(start(learnt.loaded, rows("labels"), learning_rate=0.5), 30)
    assert "divergence" in watched.kinds()
    found = next(f for f in watched.findings if f.kind == "divergence")
    assert found.evidence["loss"] > found.evidence.get("first_loss", 0) + 2


@pytest.mark.parametrize("name", ["llama", "deepseek_v3"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_row_twenty_times_as_long_is_named(name: str, batch_size: int) -> None:
    samples = rows("labels", 40)
    samples[37] = row("Case 1: the heart hurts. ", "Cardiology " * 70, "rows.jsonl:38")
    settings = {"shuffle": False, "batch_size": batch_size, "learning_rate": 5e-3}
    watched = run(start(adapted(name), samples, **settings), 40 // batch_size)
    found = next(f for f in watched.findings if f.kind == "long_row")
    assert found.step == 37 // batch_size + 1
    assert found.rows[0].row_id == "rows.jsonl:38"
    assert found.rows[0].tokens > 20 * found.evidence["usual_tokens"]
    assert found.change == ("data.max_length: 192",)


def test_a_wrong_label_is_named_by_the_spike_it_makes() -> None:
    samples = rows("labels", 320)
    samples[298] = row("Case 1: the heart hurts. ", "zzQQ!!xx##yy", "rows.jsonl:299")
    settings = {"shuffle": False, "learning_rate": 5e-3, "lr_scheduler_type": "constant"}
    (found,) = run(start(adapted("llama"), samples, **settings), 80).findings
    assert (found.kind, found.step, found.rows[0].row_id) == ("loss_spike", 75, "rows.jsonl:299")
    assert "rows.jsonl:299 alone stands out" in found.cause


@pytest.mark.parametrize("group", ["attention", "shared", "routed"])
def test_a_group_frozen_by_mistake_is_named(group: str) -> None:
    loaded = adapted("deepseek_v3")
    part = {"attention": ".self_attn.", "shared": ".shared_experts.", "routed": ".experts.adapter."}[group]

    def freeze(number: int) -> None:
        if number == 2:
            for name, parameter in loaded.model.named_parameters():
                parameter.requires_grad_(parameter.requires_grad and part not in name)

    (found,) = run(start(loaded, rows("labels"), learning_rate=3e-3), 42, after=freeze).findings
    assert (found.kind, found.groups, found.action) == ("dead_adapter", (group,), "warn")
    assert f"lora_B of {group}" in found.cause


FAMILIES = ("llama", "qwen2", "deepseek_v2", "deepseek_v2_lite", "deepseek_v3", "deepseek_v32", "deepseek_v4")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_raises_nothing(seed: int) -> None:
    generator = random.Random(seed)
    name = FAMILIES[seed % len(FAMILIES)]
    packs = name not in ("deepseek_v32", "deepseek_v4")  # the others run one sequence at a time: small steps
    loaded = adapted(name, seed=seed, dropout=generator.choice([0.0, 0.1, 0.3]))
    kind = generator.choice(["labels", "text"])
    settings = {
        "batch_size": generator.choice([1, 2, 4, 8] if packs else [1, 2]),
        "pack_tokens": generator.choice([None, 1024]) if packs else None,
        "learning_rate": (1e-4, 1e-3, 1e-2)[seed % 3],
        "lr_scheduler_type": generator.choice(["linear", "cosine", "constant"]),
        "seed": seed,
    }
    watched = run(start(loaded, rows(kind, 64, seed), **settings), 100, eval_rows=rows(kind, 16, seed + 100))
    assert len(watched.steps) == 100
    assert [str(found) for found in watched.findings] == []
