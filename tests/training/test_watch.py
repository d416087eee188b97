"""Real tiny runs under the loop's own health: planted faults, and what each policy does about them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from health_runs import RARE, adapted, rows

from seektune.config.training import HealthConfig
from seektune.data.batches import Batches
from seektune.errors import NonFiniteError, TrainingError
from seektune.models.load import Loaded
from seektune.training.finding import Finding
from seektune.training.loop import Run, train
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
