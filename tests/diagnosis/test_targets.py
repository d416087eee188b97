"""The choice of groups."""

from __future__ import annotations

import math

import pytest
from health_runs import adapted, rows

from seektune.adapters.attach import deltas_of
from seektune.config.adapter import AdapterSpec
from seektune.config.training import TrainingConfig
from seektune.data.batches import Batches
from seektune.diagnosis.targets import (
    ALL,
    gradient_shares,
    groups_of,
    inventory_causes,
    of_groups,
    target_cause,
    trained_groups,
    unmoved_cause,
    unmoved_groups,
)
from seektune.diagnosis.trials import Bench, Reference, Trial
from seektune.models.load import load_model

GROUPS = ("attention", "dense", "shared", "routed")


def trial(name: str, *losses: float) -> Trial:
    return Trial(name, losses, 50, 1e-3)


TRIALS = {
    "attention": trial("attention", 1.0, 1.1),
    "routed": trial("routed", 2.0, 2.1),
    ALL: trial(ALL, 0.9, 1.0),
}


def test_the_groups_of_a_model_and_of_a_spec_never_hold_the_router() -> None:
    loaded = load_model("tiny/deepseek_v3")
    assert groups_of(loaded) == GROUPS
    assert trained_groups(loaded, AdapterSpec(target_modules=("o_proj", "routed"))) == ("attention", "routed")


def test_gradient_shares_add_up_and_leave_no_adapter_or_gradient() -> None:
    loaded = load_model("tiny/deepseek_v3")
    batches = Batches(samples=rows("labels", 16), batch_size=4)
    shares = gradient_shares(Bench(loaded, batches, batches, TrainingConfig(), 5), GROUPS)
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares.values()) > 0
    assert not hasattr(loaded.model, "attachment")
    assert all(parameter.grad is None for parameter in loaded.model.parameters())


def test_a_trial_of_groups_keeps_the_rest_of_the_adapter() -> None:
    spec = of_groups(AdapterSpec(r=3, exclude_modules=("q_proj",)), ("attention",))
    assert (spec.r, spec.target_modules, spec.exclude_modules) == (3, ("attention",), ())


def test_a_group_that_never_moved_is_named() -> None:
    loaded = adapted("deepseek_v3")
    for site, delta in deltas_of(loaded, "default").items():
        for key, parameter in delta.named_parameters():
            if key.endswith("_B") and "self_attn" not in site:
                parameter.data.fill_(0.1)
    assert unmoved_groups(loaded) == ("attention",)
    found = unmoved_cause(("attention",))
    assert found is not None
    assert found.kind == "frozen_group"
    assert unmoved_cause(()) is None


def test_groups_that_do_better_in_a_short_run_than_the_whole_run_did_are_the_cause() -> None:
    found = target_cause(TRIALS, TRIALS["routed"], ("routed",), Reference(5.0, 1.9, 300))
    assert found is not None
    assert found.evidence["missing"] == ["attention"]
    assert found.change == ("lora.target_modules: [attention, routed]",)


@pytest.mark.parametrize(
    ("run", "configured"),
    [
        (0.8, TRIALS["routed"]),  # the run went further
        (math.inf, TRIALS["routed"]),  # it broke off, for another reason
        (1.9, trial("configured", 1.0, 1.0)),  # its own beginning was as good
        (1.9, trial("configured", 0.2, 1.9)),  # seeds differ as much
    ],
)
def test_targets_are_right_where_others_do_no_better(run: float, configured: Trial) -> None:
    assert target_cause(TRIALS, configured, ("routed",), Reference(5.0, run, 300)) is None


def test_the_gates_failed_checks_and_unused_groups_are_causes() -> None:
    checks = {"table": True, "router_unchanged": False, "gradients": None, "unused_groups": ["vision"]}
    assert [cause.kind for cause in inventory_causes({"checks": checks})] == ["gate", "unused_group"]
    assert list(inventory_causes({})) == []
