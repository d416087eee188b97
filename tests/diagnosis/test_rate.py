"""Where a rate stands among others."""

from __future__ import annotations

import math

from seektune.diagnosis.rate import rate_cause, rates
from seektune.diagnosis.trials import Reference, Trial


def ladder(configured: float, best: float) -> list[Trial]:
    """Losses as they are in life: a valley over the logarithm of the rate, divergence far above."""

    def trial(rate: float) -> Trial:
        off = math.log10(rate / best)
        return Trial(f"{rate:g}", (math.inf if off > 1.5 else 1 + abs(off),), 50, rate)

    return list(rates(configured, trial))


def test_the_ladder_goes_on_where_the_best_lies_at_the_edge() -> None:
    assert len(ladder(1e-3, 1e-3)) == 5
    assert min(trial.learning_rate for trial in ladder(1.0, 1e-3)) <= 1.01e-3
    assert max(trial.learning_rate for trial in ladder(1e-5, 1e-2)) >= 0.99e-2


def test_a_rate_is_wrong_where_a_short_run_at_another_beats_the_whole_run() -> None:
    for configured, kind in ((0.1, "learning_rate_too_high"), (1e-5, "learning_rate_too_low")):
        found = rate_cause(ladder(configured, 1e-3), configured, Reference(5.0, 4.0, 300))
        assert found is not None
        assert (found.kind, found.change) == (kind, ("training.learning_rate: 0.001",))


def test_a_rate_that_is_not_the_best_in_a_short_run_is_fine_where_the_whole_run_went_further() -> None:
    assert rate_cause(ladder(1e-4, 1e-3), 1e-4, Reference(5.0, 0.9, 300)) is None


def test_a_run_that_broke_off_is_a_sign_of_a_high_rate_only() -> None:
    broken = Reference(5.0, math.inf, 30)
    assert rate_cause(ladder(1e-5, 1e-3), 1e-5, broken) is None
    found = rate_cause(ladder(0.1, 1e-3), 0.1, broken)
    assert found is not None
    assert "broke off" in found.sentence


def test_of_rates_that_do_as_well_the_nearest_is_named() -> None:
    trials = [Trial("", (loss,), 50, rate) for rate, loss in ((1e-1, 3.0), (1e-2, 1.0), (1e-3, 0.95))]
    found = rate_cause(trials, 1e-1, Reference(5.0, 3.0, 300))
    assert found is not None
    assert found.evidence["better"] == 1e-2
