"""A bench of tiny rows."""

from __future__ import annotations

import pytest
from health_runs import rows

from seektune.config.training import TrainingConfig
from seektune.data.batches import Batches
from seektune.diagnosis.trials import Bench
from seektune.models.load import load_model


@pytest.fixture
def bench() -> Bench:
    """Five steps on tiny/llama, scored on other rows."""
    learned, scored = rows("labels", 32), rows("labels", 16, seed=1)
    return Bench(
        load_model("tiny/llama", seed=0),
        Batches(samples=learned, batch_size=4),
        Batches(samples=scored, batch_size=8, shuffle=False),
        TrainingConfig(learning_rate=5e-3),
        5,
    )
