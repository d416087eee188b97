from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch

from seektune.adapters.inventory import Gate
from seektune.config.training import TrainingConfig
from seektune.errors import NonFiniteError, TrainingError
from seektune.models.load import Loaded
from seektune.training.finding import Origin
from seektune.training.probe import rows_of
from seektune.training.trainer import Trainer
from seektune.training.window import windows
from seektune.types import IGNORE, Sample, StepMetrics

Adapted = Callable[..., Loaded]


def trainer_of(loaded: Loaded, total_steps: int = 4, **settings: Any) -> Trainer:
    return Trainer(loaded, Gate(loaded), TrainingConfig(**settings), total_steps)


def updated(trainer: Trainer, window: Any) -> StepMetrics:
    """Attempt the window and apply it, as the loop does where health finds nothing."""
    attempt = trainer.attempt(window)
    return trainer.apply(attempt) if attempt.finite else trainer.discard(attempt)


def one_step(loaded: Loaded, rows: Any, group: int, **settings: Any) -> StepMetrics:
    """One optimiser step over all rows, `group` of them per forward."""
    return updated(trainer_of(loaded, **settings), next(windows(rows.grouped(group), len(rows.samples))))


def trained(loaded: Loaded) -> torch.Tensor:
    parts = [p.detach().flatten() for p in loaded.model.parameters() if p.requires_grad]
    return torch.cat(parts).clone()


@pytest.mark.parametrize("source", ["tiny/llama", "tiny/deepseek_v3", "tiny/deepseek_v4"])
def test_loss_and_gradient_do_not_depend_on_how_rows_are_grouped(
    source: str, rows: Any, adapted: Adapted
) -> None:
    seen = [one_step(adapted(source, dtype="float64"), rows, group) for group in (1, 3, 8)]
    for other in seen[1:]:
        assert other.loss == pytest.approx(seen[0].loss, rel=1e-6)
        assert other.grad_norm == pytest.approx(seen[0].grad_norm, rel=1e-5)
    assert {metrics.tokens for metrics in seen} == {sum(map(len, rows.samples))}


def test_the_loss_is_the_weighted_mean_over_tokens_not_over_batches(rows: Any, adapted: Adapted) -> None:
    loaded = adapted()
    trainer = trainer_of(loaded)
    alone = [trainer.evaluate(type(rows)([sample]).epoch(0)) for sample in rows.samples]
    counts = [sum(target != IGNORE for target in sample.targets) for sample in rows.samples]
    expected = sum(loss * n for loss, n in zip(alone, counts, strict=True)) / sum(counts)
    assert one_step(loaded, rows, 2).loss == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(sum(alone) / len(alone), rel=1e-3)


def test_a_row_of_weight_zero_teaches_nothing(rows: Any, adapted: Adapted) -> None:
    silent = [Sample(s.input_ids, s.targets, s.row_id, weight=0.0) for s in rows.samples[4:]]
    half = one_step(adapted(), type(rows)(rows.samples[:4]), 2)
    padded = one_step(adapted(), type(rows)([*rows.samples[:4], *silent]), 2)
    assert padded.loss == pytest.approx(half.loss, rel=1e-6)
    assert padded.grad_norm == pytest.approx(half.grad_norm, rel=1e-5)


def test_rows_without_any_loss_are_an_error_that_names_them(rows: Any, adapted: Adapted) -> None:
    empty = [Sample(s.input_ids, (IGNORE,) * len(s), s.row_id) for s in rows.samples]
    with pytest.raises(
        TrainingError, match=r"no token carries loss in toy.jsonl:1, .* and 0 more|toy.jsonl:8"
    ):
        one_step(adapted(), type(rows)(empty), 2)


def test_the_gradient_is_clipped_and_its_norm_reported_as_it_was(rows: Any, adapted: Adapted) -> None:
    loaded = adapted()
    trainer = trainer_of(loaded, max_grad_norm=1e-3)
    clipped: list[float] = []

    def watch(*_: object) -> None:
        gradients = [p.grad.flatten() for p in loaded.model.parameters() if p.grad is not None]
        clipped.append(torch.cat(gradients).norm().item())

    trainer.optimizer.register_step_pre_hook(watch)
    metrics = updated(trainer, next(windows(rows.grouped(4), 2)))
    assert metrics.grad_norm > 1e-2
    assert clipped == [pytest.approx(1e-3, rel=1e-3)]


def test_the_schedule_moves_once_per_applied_update(rows: Any, adapted: Adapted) -> None:
    trainer = trainer_of(adapted(), total_steps=4, learning_rate=1.0, warmup_steps=1)
    stream = windows(rows.grouped(1), 3)
    seen = [updated(trainer, next(stream)) for _ in range(4)]
    assert [metrics.learning_rate for metrics in seen] == pytest.approx([0, 1, 2 / 3, 1 / 3])


def test_adapter_and_optimiser_state_are_float32_on_a_bfloat16_base(rows: Any, adapted: Adapted) -> None:
    loaded = adapted("tiny/deepseek_v3", dtype="bfloat16", target_modules=["attention", "routed"])
    trainer = trainer_of(loaded)
    updated(trainer, next(windows(rows.grouped(8), 1)))
    assert loaded.model.dtype == torch.bfloat16
    parameters = [p for p in loaded.model.parameters() if p.requires_grad]
    states = [value for state in trainer.optimizer.state.values() for value in state.values()]
    assert {tensor.dtype for tensor in [*parameters, *states]} == {torch.float32}


def test_dropout_depends_on_seed_and_step_and_leaves_the_random_state_alone(
    rows: Any, adapted: Adapted
) -> None:
    def run(seed: int, disturb: bool = False) -> torch.Tensor:
        loaded = adapted(lora_dropout=0.5)
        trainer = trainer_of(loaded, seed=seed, learning_rate=1e-2)
        stream = windows(rows.grouped(4), 1)
        for _ in range(3):
            before = torch.get_rng_state()
            updated(trainer, next(stream))
            assert torch.equal(torch.get_rng_state(), before)
            if disturb:
                torch.rand(1)
        return trained(loaded)

    assert torch.equal(run(0), run(0, disturb=True))
    assert not torch.equal(run(0), run(1))


def test_dropout_differs_from_step_to_step(rows: Any, adapted: Adapted) -> None:
    trainer = trainer_of(adapted(lora_dropout=0.5), learning_rate=1e-30)
    window = next(windows(rows.grouped(8), 1))
    norms = {metrics.grad_norm for metrics in (updated(trainer, window) for _ in range(3))}
    assert len(norms) == 3


def test_evaluation_is_the_training_loss_without_dropout(rows: Any, adapted: Adapted) -> None:
    loaded = adapted(lora_dropout=0.9)
    trainer = trainer_of(loaded)
    first = updated(trainer, next(windows(rows.grouped(8), 1)))
    fresh = trainer_of(adapted())
    expected = fresh.evaluate(rows.grouped(8).epoch(0))
    assert expected == pytest.approx(first.loss, rel=1e-5)  # B is still zero: dropout has no effect
    assert trainer.evaluate(rows.grouped(3).epoch(0)) == trainer.evaluate(rows.grouped(3).epoch(0))
    assert trainer.evaluate(rows.grouped(3).epoch(0)) == pytest.approx(
        trainer.evaluate(rows.grouped(8).epoch(0)), rel=1e-5
    )


def poison(loaded: Loaded, token: int) -> None:
    with torch.no_grad():
        loaded.model.get_input_embeddings().weight[token] = float("nan")


def rows_of_one_token(rows: Any, bad: int) -> Any:
    """The rows with token 5 in row `bad` only."""
    clean = [
        Sample(tuple(6 if t == 5 else t for t in s.input_ids), s.targets, s.row_id) for s in rows.samples
    ]
    clean[bad] = Sample((5, *clean[bad].input_ids[1:]), clean[bad].targets, clean[bad].row_id)
    return type(rows)(clean)


def test_a_loss_that_is_not_finite_comes_back_with_its_rows_and_nothing_moves(
    rows: Any, adapted: Adapted
) -> None:
    loaded = adapted()
    poison(loaded, 5)
    before = trained(loaded)
    trainer = trainer_of(loaded, learning_rate=0.5)
    attempt = trainer.attempt(next(windows(rows_of_one_token(rows, 2).grouped(4), 2)))
    assert math.isnan(attempt.loss)
    scored = rows_of(attempt.batches, attempt.log_probs)
    assert [row.row_id for row in scored if not math.isfinite(row.loss or 0)] == ["toy.jsonl:3"]
    assert trainer.origin(attempt) == Origin("model.embed_tokens.weight", None, "parameter")
    assert trainer.withdraw(attempt).applied is False
    assert (trainer.step, trainer.seen) == (0, 0)
    assert torch.equal(trained(loaded), before)
    assert not trainer.optimizer.state


def test_an_evaluation_that_is_not_finite_names_its_rows(rows: Any, adapted: Adapted) -> None:
    loaded = adapted()
    poison(loaded, 5)
    with pytest.raises(NonFiniteError, match=r"evaluation loss is not finite in toy\.jsonl:7$"):
        trainer_of(loaded).evaluate(rows_of_one_token(rows, 6).grouped(8).epoch(0))


def test_a_gradient_that_is_not_finite_comes_back(rows: Any, adapted: Adapted) -> None:
    loaded = adapted()
    before = trained(loaded)
    trainer = trainer_of(loaded)
    overflow(loaded, 1)
    attempt = trainer.attempt(next(windows(rows.grouped(8), 1)))
    assert math.isfinite(attempt.loss)
    assert not math.isfinite(attempt.grad_norm)
    assert trainer.origin(attempt) is None  # it was finite this time
    trainer.discard(attempt)
    assert (trainer.step, trainer.seen) == (0, 1)
    assert torch.equal(trained(loaded), before)


def test_a_discarded_or_withdrawn_attempt_leaves_no_trace_in_the_next(rows: Any, adapted: Adapted) -> None:
    first, second = list(islice(windows(rows.grouped(4), 1), 2))

    def run(between: Callable[[Trainer], object]) -> torch.Tensor:
        loaded = adapted()
        trainer = trainer_of(loaded, learning_rate=1e-2)
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=100)
        updated(trainer, first)
        between(trainer)
        updated(trainer, second)
        return trained(loaded)

    plain = run(lambda trainer: None)
    assert torch.equal(run(lambda trainer: trainer.discard(trainer.attempt(first))), plain)
    assert torch.equal(run(lambda trainer: trainer.withdraw(trainer.attempt(first))), plain)


def overflow(loaded: Loaded, times: int) -> None:
    """Make the first `times` backward passes overflow."""
    factors = iter([float("inf")] * times)
    loaded.model.model.norm.register_full_backward_pre_hook(
        lambda _, gradients: (gradients[0] * next(factors, 1.0),)
    )


def test_a_step_whose_scaled_gradient_overflows_is_skipped_and_the_next_is_unscaled(
    rows: Any, adapted: Adapted
) -> None:
    loaded, window = adapted(), next(windows(rows.grouped(4), 2))
    overflow(loaded, 1)
    before, trainer = trained(loaded), trainer_of(loaded, learning_rate=1e-3, warmup_steps=2)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    skipped = updated(trainer, window)
    assert (skipped.applied, skipped.step, skipped.loss_scale) == (False, 1, 1024)
    assert trainer.scaler.get_scale() == 512
    assert torch.equal(trained(loaded), before)
    steps = [updated(trainer, window) for _ in range(2)]
    assert [(metrics.step, metrics.learning_rate) for metrics in steps] == [(1, 0), (2, 5e-4)]

    plain = updated(trainer_of(adapted(), learning_rate=1e-3, warmup_steps=2), window)
    assert steps[0].grad_norm == pytest.approx(plain.grad_norm, rel=1e-5)


def test_the_loss_scale_and_skipped_windows_are_carried_along(rows: Any, adapted: Adapted) -> None:
    """Dropout follows the windows seen, which are more than the steps where one was skipped."""

    def scaled(loaded: Loaded) -> Trainer:
        trainer = trainer_of(loaded, learning_rate=1e-2)
        trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        return trainer

    first = adapted(lora_dropout=0.3)
    overflow(first, 1)
    trainer, stream = scaled(first), windows(rows.grouped(2), 1)
    done = [updated(trainer, window) for window in islice(stream, 2)]
    assert [metrics.applied for metrics in done] == [False, True]
    state = trainer.state()
    expected = [updated(trainer, window) for window in islice(stream, 2)]

    second = adapted(lora_dropout=0.3)
    again = scaled(second)
    again.restore(state)
    assert again.scaler.state_dict() == state.values["scaler"]
    assert (again.scaler.get_scale(), again.step, again.seen) == (512, 1, 2)
    later = windows(rows.grouped(2), 1, state.values["data"]["after"])
    seen = [updated(again, window) for window in islice(later, 2)]
    for metrics, other in zip(seen, expected, strict=True):
        assert replace(metrics, seconds=0) == replace(other, seconds=0)
    assert again.scaler.get_scale() == trainer.scaler.get_scale() == 1024
    assert torch.equal(trained(second), trained(first))


@pytest.mark.gpu
def test_a_float16_base_trains_on_a_gpu_with_float32_adapters(rows: Any, adapted: Adapted) -> None:
    loaded = adapted(dtype="float16")
    trainer = trainer_of(loaded, learning_rate=1e-2)
    assert trainer.scaler.is_enabled()
    before, window = trained(loaded), next(windows(rows.grouped(4), 2))
    applied = [metrics for metrics in (updated(trainer, window) for _ in range(40)) if metrics.applied]
    assert applied[-1].loss < applied[0].loss - 0.5
    assert not torch.equal(trained(loaded), before)
    assert {p.dtype for p in loaded.model.parameters() if p.requires_grad} == {torch.float32}
