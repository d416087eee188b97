"""Where the configured learning rate stands among others, by short runs from the base."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from seektune.diagnosis.cause import Cause
from seektune.diagnosis.trials import Reference, Trial
from seektune.training.causes import number

FACTORS = (1.0, 0.1, 0.3, 3.0, 10.0)
"""Times the configured rate, which comes first."""

FURTHER = 3
"""More powers of ten at most, on the side where the best rate lies at the edge."""


def rates(configured: float, run: Callable[[float], Trial]) -> Iterator[Trial]:
    """One trial per rate, and more where the best lies at the edge; `run` makes the trial of a rate."""
    trials = {factor: run(configured * factor) for factor in FACTORS}
    yield from trials.values()
    for _ in range(FURTHER):
        best = min(trials, key=lambda factor: trials[factor].loss)
        edge = best == max(trials) and best > 1, best == min(trials) and best < 1
        lost = all(math.isinf(trial.loss) for trial in trials.values())
        if not any(edge) and not lost:
            return
        factor = max(trials) * 10 if edge[0] else min(trials) / 10
        trials[factor] = run(configured * factor)
        yield trials[factor]


def rate_cause(trials: Sequence[Trial], configured: float, reference: Reference) -> Cause | None:
    """The configured rate as a cause: a short run at another rate ends lower than the whole run did.

    Among rates that do as well as the best, the one nearest to the configured one is named.
    """
    here = next(trial for trial in trials if math.isclose(trial.learning_rate, configured))
    before = reference.before(here)
    least = min(trial.loss for trial in trials)
    best = min(
        (trial for trial in trials if not reference.beats(least, trial.loss)),
        key=lambda trial: abs(math.log(trial.learning_rate / configured)),
    )
    low = best.learning_rate > configured
    if best is here or not reference.beats(best.loss, before) or (low and math.isinf(reference.run)):
        return None  # a run that broke off for another reason is no sign of a low rate
    word = "low" if low else "high"
    ended = "broke off" if math.isinf(reference.run) else f"ended at {reference.run:.3g}"
    sentence = (
        f"The learning rate {number(configured)} is too {word}: {best.steps} steps at "
        f"{number(best.learning_rate)} reach a loss of {best.loss:.3g} on the same rows, where the whole run "
        f"of {reference.steps} steps {ended}; the base has {reference.base:.3g}."
    )
    evidence = {
        "learning_rate": configured, "better": best.learning_rate, "loss_there": best.loss,
        "loss_here": here.loss, "loss_of_run": reference.run, "loss_of_base": reference.base,
        "steps": best.steps,
    }  # fmt: skip
    change = (f"training.learning_rate: {number(best.learning_rate)}",)
    gain = reference.gain(best.loss, before)
    return Cause("rate", f"learning_rate_too_{word}", gain, evidence, sentence, change)
