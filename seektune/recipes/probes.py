"""What `seektune diagnose` asks the model: its view of the labels, and short runs from the base."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from seektune.adapters.attach import detach
from seektune.config.run import RunConfig
from seektune.diagnosis.cause import Cause
from seektune.diagnosis.labels import Judged, by_surprise, label_cause
from seektune.diagnosis.rate import rate_cause, rates
from seektune.diagnosis.targets import (
    ALL,
    gradient_shares,
    groups_of,
    of_groups,
    target_cause,
    trained_groups,
    unmoved_cause,
    unmoved_groups,
)
from seektune.diagnosis.trials import LEAST_STEPS, Bench, Reference, last_loss, mean_loss, trial_steps
from seektune.models.load import load_model
from seektune.recipes.adapted import open_adapted
from seektune.recipes.evaluate import recorded, spread
from seektune.recipes.fit import ragged
from seektune.recipes.judging import judge, splits
from seektune.recipes.run_folder import is_finished
from seektune.types import StepMetrics

SCORED = 64
"""Rows that trials are scored on, at most."""

SEEDS = (0, 1)
"""Of each trial of targets."""

LEARNT = 0.8
"""Share of the base's loss below which an adapter has learnt enough to judge answers."""


@dataclass
class Probed:
    """The causes found and the numbers behind the answers, for `diagnosis.json`."""

    causes: list[Cause] = field(default_factory=list)
    numbers: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def probed(config: RunConfig, steps: Sequence[StepMetrics], budget: float, console: Console) -> Probed:
    """Load the model and ask it; `budget` in minutes sizes the short runs by the run's own time per step."""
    found, folder = Probed(), config.output_dir
    finished = is_finished(folder)
    loaded = (
        open_adapted(str(folder))
        if finished
        else load_model(config.base_model, dtype=config.compute_dtype, dequantize=config.dequantize)
    )
    data = recorded(config, loaded, console)
    scored = spread(data.held_out if len(data.held_out) else data.train, SCORED)
    bench = Bench(
        loaded,
        ragged(config, data.train),
        ragged(config, scored, shuffle=False),
        config.training,
        trial_steps(steps, 6 + len(SEEDS) * (len(groups_of(loaded)) + 2), budget),
    )
    judged: list[list[Judged]] = []
    loss = math.inf
    if finished:
        with console.status("judging the answers …"):
            loss = mean_loss(loaded, bench.scored)
            judged = [judge(loaded, rows, samples) for rows, samples in splits(data)]
        found.causes += [cause for cause in [unmoved_cause(unmoved_groups(loaded))] if cause]
        detach(loaded)
    elif steps:
        loss = last_loss(steps)
    reference = Reference(bench.base_loss(), loss, steps[-1].step if steps else 0)
    found.numbers["loss"] = {"base": reference.base, "run": loss if math.isfinite(loss) else None}
    if config.training.stages:
        found.notes.append("A run in stages has a rate and targets for each: other ones are not tried.")
    elif bench.steps < LEAST_STEPS:
        found.notes.append("The run, or --budget, is too short for trials of other rates and targets.")
    else:
        try_settings(bench, config, reference, found, console)
    judge_labels(judged, reference, found)
    return found


def try_settings(
    bench: Bench, config: RunConfig, reference: Reference, found: Probed, console: Console
) -> None:
    """Other rates, then other groups at the best rate."""
    spec, configured = config.lora, config.training.learning_rate
    with console.status("trying other learning rates …"):
        tried = list(rates(configured, lambda rate: bench.run(f"{rate:.3g}", spec, learning_rate=rate)))
    found.numbers["rates"] = [trial.to_json() for trial in tried]
    cause = rate_cause(tried, configured, reference)
    found.causes += [cause] if cause else []
    rate = float(cause.evidence["better"]) if cause else configured
    groups, trained = groups_of(bench.loaded), trained_groups(bench.loaded, spec)
    with console.status("trying other targets …"):
        found.numbers["gradient_shares"] = gradient_shares(bench, groups)
        here = bench.run("configured", spec, learning_rate=rate, seeds=SEEDS)
        wanted = {group: (group,) for group in groups} | ({ALL: groups} if len(groups) > 1 else {})
        trials = {
            name: bench.run(name, of_groups(spec, chosen), learning_rate=rate, seeds=SEEDS)
            for name, chosen in wanted.items()
        }
    found.numbers["targets"] = [trial.to_json() for trial in (here, *trials.values())]
    cause = target_cause(trials, here, trained, reference)
    found.causes += [cause] if cause else []


def judge_labels(judged: Sequence[Sequence[Judged]], reference: Reference, found: Probed) -> None:
    """Wrong labels, where the adapter has learnt enough to judge them."""
    if not judged or reference.run > LEARNT * reference.base:
        found.notes.append("Labels not judged: the adapter has not learnt enough to tell.")
        return
    cause = label_cause(judged)
    found.causes += [cause] if cause else []
    found.numbers["labels"] = [
        row.to_json() for row in by_surprise([r for rows in judged for r in rows])[:20]
    ]
