"""Whether the right parts of the model train: gradients per group, and short runs of each group alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from seektune.adapters.attach import active_adapter, deltas_of
from seektune.config.adapter import AdapterSpec
from seektune.diagnosis.cause import Cause
from seektune.diagnosis.trials import Bench, Reference, Trial, attached
from seektune.models.families import GROUPS
from seektune.models.load import Loaded
from seektune.models.sites import find_sites, groups_by_site
from seektune.training.step import TrainStep, scored

ALL = "all"
"""Name of the trial of all groups together."""

BATCHES = 4
"""Batches whose gradients are compared."""


def groups_of(loaded: Loaded) -> tuple[str, ...]:
    """The groups this model has."""
    present = set(groups_by_site(loaded.model, loaded.family).values())
    return tuple(group for group in GROUPS if group in present)


def trained_groups(loaded: Loaded, spec: AdapterSpec) -> tuple[str, ...]:
    """The groups of which `spec` trains at least a part."""
    sites = find_sites(loaded.model, loaded.family, spec.target_modules, spec.exclude_modules)
    trained = {site.group for site in sites}
    return tuple(group for group in GROUPS if group in trained)


def of_groups(spec: AdapterSpec, groups: Iterable[str]) -> AdapterSpec:
    """The same adapter on whole groups."""
    return spec.model_copy(update={"target_modules": tuple(groups), "exclude_modules": (), "experts": None})


def gradient_shares(bench: Bench, groups: Sequence[str]) -> dict[str, float]:
    """Each group's share of the squared gradient of B at the start, with an adapter on all of them."""
    squares = dict.fromkeys(groups, 0.0)
    loaded, step = bench.loaded, TrainStep(bench.loaded)
    where = groups_by_site(loaded.model, loaded.family)
    with attached(loaded, of_groups(AdapterSpec(), groups), 0):
        for batch in islice(bench.batches.epoch(0), BATCHES):
            loss_sum, weight, _ = scored(step, batch.to(loaded.device))
            (loss_sum / weight).backward()
            for site, delta in deltas_of(loaded, active_adapter(loaded) or "").items():
                for parameter in delta.parameters():
                    if parameter.grad is not None:
                        squares[where[site]] += float(parameter.grad.square().sum())
                        parameter.grad = None
    total = sum(squares.values())
    return {group: square / total for group, square in squares.items()} if total else squares


def unmoved_groups(loaded: Loaded) -> tuple[str, ...]:
    """Groups whose B is still zero everywhere in the active adapter: they do nothing."""
    where = groups_by_site(loaded.model, loaded.family)
    moved: dict[str, bool] = {}
    for site, delta in deltas_of(loaded, active_adapter(loaded) or "").items():
        for key, parameter in delta.named_parameters():
            if key.endswith("_B"):
                moved[where[site]] = moved.get(where[site], False) or bool(parameter.any())
    return tuple(group for group, any_moved in moved.items() if not any_moved)


def unmoved_cause(groups: Sequence[str]) -> Cause | None:
    """Groups that carry an adapter which never moved."""
    if not groups:
        return None
    named = ", ".join(groups)
    return Cause(
        "targets",
        "frozen_group",
        math.inf,
        {"unmoved": len(groups), "groups": list(groups)},
        f"The adapter on {named} never moved: all its B are zero, so it was frozen by mistake, left out of "
        "the optimiser, or got no gradient.",
        (f"lora.exclude_modules: [{named}]  # or find what freezes it",),
    )


def target_cause(
    trials: Mapping[str, Trial], configured: Trial, trained: Sequence[str], reference: Reference
) -> Cause | None:
    """The choice of groups as a cause: a short run of other groups ends lower than the whole run did."""
    if math.isinf(reference.run):
        return None  # it broke off: that has another cause
    before = reference.before(configured)
    better = [
        trial
        for trial in trials.values()
        if reference.beats(trial.loss + trial.spread, before - min(configured.spread, before))
    ]
    if not better:
        return None
    best = min(better, key=lambda trial: trial.loss)
    names = list(trials) if best.name == ALL else [best.name]
    groups = [name for name in names if name != ALL]
    missing = [group for group in groups if group not in trained]
    sentence = (
        f"What trains ({', '.join(trained)}) is not enough: {best.steps} steps of {', '.join(groups)} reach "
        f"a loss of {best.loss:.3g} ± {best.spread:.2g}; the same steps of what is configured reach "
        f"{configured.loss:.3g}, the whole run {reference.run:.3g}; the base has {reference.base:.3g}."
    )
    evidence = {
        "trained": list(trained), "missing": missing, "loss_there": best.loss, "spread": best.spread,
        "loss_here": configured.loss, "loss_of_run": reference.run, "loss_of_base": reference.base,
        "steps": best.steps,
    }  # fmt: skip
    change = (f"lora.target_modules: [{', '.join(groups)}]",)
    return Cause("targets", "wrong_targets", reference.gain(best.loss, before), evidence, sentence, change)


def inventory_causes(inventory: Mapping[str, Any]) -> Iterator[Cause]:
    """What the trained-what gate noted: checks that failed, groups that no batch used."""
    checks = inventory.get("checks", {})
    for check in ("gradients", "first_update", "router_unchanged", "frozen_unchanged"):
        if checks.get(check) is False:
            yield Cause(
                "targets",
                "gate",
                math.inf,
                {check: False},
                f"The trained-what gate failed: {check} in inventory.json.",
            )
    if unused := checks.get("unused_groups"):
        named = ", ".join(unused)
        yield Cause(
            "targets", "unused_group", math.inf, {"groups": list(unused)},
            f"No batch ever used the adapter on {named}.", (f"lora.exclude_modules: [{named}]",),
        )  # fmt: skip
