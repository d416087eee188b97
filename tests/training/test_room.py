"""Memory that runs out above a number of tokens, planted where a real device would: inside the module."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.batches import collate
from seektune.errors import TrainingError
from seektune.models.load import Loaded
from seektune.training.loop import train
from seektune.training.room import Room, halves, is_out_of_memory
from seektune.types import Sample, StepMetrics

Adapted = Callable[..., Loaded]
ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: "
                 "you tried to allocate 68719476736 bytes. Error code 12 (Cannot allocate memory)"),
)  # fmt: skip


def crowded(loaded: Loaded, above: int, error: Exception = ERRORS[0], backward: bool = False) -> list[int]:
    """Make more than `above` tokens in one forward (or its backward) fail; the sizes that were tried."""
    tried: list[int] = []

    def check(_: object, inputs: Any, output: torch.Tensor) -> None:
        tokens = output.shape[-2]
        tried.append(tokens)
        if tokens > above and not backward:
            raise error
        if tokens > above and output.requires_grad:
            output.register_hook(lambda _: fail())

    def fail() -> None:
        raise error

    loaded.model.model.layers[0].register_forward_hook(check)
    return tried


def trained(loaded: Loaded) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in loaded.model.parameters() if p.requires_grad])


def steps_of(loaded: Loaded, rows: Any, group: int = 4, **settings: Any) -> list[StepMetrics]:
    batches = rows.grouped(group)
    steps = train(loaded, batches, **{"max_steps": 4, "learning_rate": 1e-3} | settings)
    return [replace(step, seconds=0) for step in steps]


@given(st.lists(st.integers(1, 40), min_size=2, max_size=12))
def test_two_halves_are_the_batch_and_neither_is_empty(lengths: list[int]) -> None:
    samples = [
        Sample(tuple(range(3, 3 + n)), tuple(range(4, 4 + n)), f"a:{i}", 0.5) for i, n in enumerate(lengths)
    ]
    batch = collate(samples)
    parts = halves(batch)
    assert [name for part in parts for name in part.row_ids] == list(batch.row_ids)
    for name in ("input_ids", "position_ids", "targets", "weights"):
        joined = torch.cat([getattr(part, name) for part in parts], dim=1)
        assert torch.equal(joined, getattr(batch, name))
    at = 0
    for part in parts:
        part_of = collate(samples[at : at + len(part.row_ids)])
        assert torch.equal(part.cu_seqlens, part_of.cu_seqlens)
        at += len(part.row_ids)
    assert max(part.input_ids.numel() for part in parts) <= sum(lengths) / 2 + max(lengths)


@pytest.mark.parametrize("error", ERRORS, ids=["device", "cpu"])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("name", ["llama", "deepseek_v3"])
def test_a_batch_that_does_not_fit_makes_the_same_step(
    name: str, backward: bool, error: Exception, rows: Any, adapted: Adapted
) -> None:
    """Loss, norm and parameters, to rounding; where it fails in the backward nothing counts twice."""
    spec: dict[str, Any] = {"dtype": "float64", "target_modules": ["attention", "dense"]}
    whole, cut = adapted(f"tiny/{name}", **spec), adapted(f"tiny/{name}", **spec)
    expected = steps_of(whole, rows, gradient_accumulation_steps=2)
    tried = crowded(cut, 40, error, backward)
    found = steps_of(cut, rows, gradient_accumulation_steps=2)
    for one, other in zip(found, expected, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-5)
        assert one.grad_norm == pytest.approx(other.grad_norm, rel=1e-4)
        assert (one.step, one.tokens, one.applied) == (other.step, other.tokens, True)
    torch.testing.assert_close(trained(cut), trained(whole), rtol=1e-4, atol=1e-6)
    assert max(tried) > 40


def test_the_size_that_fits_is_said_once_and_later_windows_are_cut_before_they_fail(
    rows: Any, adapted: Adapted, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = adapted()
    tried = crowded(loaded, 40)
    with caplog.at_level(logging.WARNING):
        steps_of(loaded, rows)
    failures = [tokens for tokens in tried if tokens > 40]
    assert len(failures) == 1
    assert tried[0] == failures[0]
    (line,) = [record.getMessage() for record in caplog.records if "did not fit" in record.getMessage()]
    assert f"at most {failures[0] // 2} tokens" in line


def test_a_run_that_fits_is_not_touched(rows: Any, adapted: Adapted) -> None:
    one, other = adapted(), adapted()
    assert steps_of(one, rows) == steps_of(other, rows, auto_find_batch_size=False)
    assert torch.equal(trained(one), trained(other))


def test_a_row_that_does_not_fit_alone_is_an_error_that_says_what_to_change(
    rows: Any, adapted: Adapted
) -> None:
    loaded = adapted()
    crowded(loaded, 5)
    with pytest.raises(TrainingError) as refused:
        steps_of(loaded, rows)
    for part in ("toy.jsonl:", "does not fit into memory alone (CUDA out of memory",
                 "training.gradient_checkpointing: true", "data.max_length: "):  # fmt: skip
        assert part in str(refused.value)


def test_where_batches_may_not_be_cut_the_error_says_what_to_set(rows: Any, adapted: Adapted) -> None:
    loaded = adapted()
    crowded(loaded, 40)
    with pytest.raises(
        TrainingError, match=r"a batch of 4 rows .*per_device_train_batch_size: 2 .*twice the"
    ):
        steps_of(loaded, rows, auto_find_batch_size=False)


def test_any_other_error_passes(rows: Any, adapted: Adapted) -> None:
    loaded = adapted()
    crowded(loaded, 40, RuntimeError("a shape is wrong"))
    assert not is_out_of_memory(RuntimeError("a shape is wrong"))
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        steps_of(loaded, rows)


def test_an_evaluation_that_does_not_fit_is_cut_too(rows: Any, adapted: Adapted) -> None:
    whole, cut = adapted(), adapted()
    expected = steps_of(whole, rows, group=1, eval_batches=rows.grouped(8), eval_steps=2)
    crowded(cut, 40)
    found = steps_of(cut, rows, group=1, eval_batches=rows.grouped(8), eval_steps=2)
    pairs = [(one.eval_loss, other.eval_loss) for one, other in zip(found, expected, strict=True)]
    assert [one is None for one, _ in pairs] == [True, False, True, False]
    assert [one for one, _ in pairs[1::2]] == pytest.approx([other for _, other in pairs[1::2]], rel=1e-5)


def test_a_resumed_run_keeps_to_the_size_that_was_found(rows: Any, adapted: Adapted) -> None:
    """Bit for bit: the same pieces, so that dropout and rounding are the same."""
    whole, cut = adapted(lora_dropout=0.2), adapted(lora_dropout=0.2)
    crowded(whole, 40)
    expected = steps_of(whole, rows)
    first = adapted(lora_dropout=0.2)
    crowded(first, 40)
    run = train(first, rows.grouped(4), max_steps=4, learning_rate=1e-3)
    before = [replace(step, seconds=0) for step in islice(run, 2)]
    tried = crowded(cut, 10**6)  # there is room enough now
    assert before + steps_of(cut, rows, resume=run.state()) == expected
    assert max(tried) <= 46
    assert torch.equal(trained(cut), trained(whole))


def test_a_room_without_a_limit_cuts_nothing(rows: Any) -> None:
    batches = list(rows.grouped(4).epoch(0))
    (trial,) = Room(splits=True).trials(batches)
    assert all(piece is batch for piece, batch in zip(trial, batches, strict=True))
