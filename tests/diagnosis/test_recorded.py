"""Health's findings as causes."""

from __future__ import annotations

from seektune.config.training import HealthConfig
from seektune.diagnosis.cause import ranked
from seektune.diagnosis.recorded import NAMES, health_causes
from seektune.training.finding import Finding, Row


def test_every_kind_of_health_is_a_cause_but_the_plateau_of_a_run_that_has_learnt() -> None:
    others = ("early_", "max_", "rollback_")
    kinds = {kind for kind in HealthConfig.model_fields if not kind.startswith(others)}
    assert set(NAMES) == kinds - {"plateau"}


def test_a_kind_said_often_is_one_cause_told_by_its_first_finding() -> None:
    row = Row("rows.jsonl:7", 20, 0.5, float("nan"))
    found = [
        Finding("non_finite", step, "stop", {"loss": float("nan")}, "a bad row", ("a: b",), (row,)).to_json()
        for step in (3, 9)
    ]
    (cause,) = health_causes(found)
    assert (cause.kind, cause.evidence["step"], cause.evidence["times"]) == ("non_finite", 3, 2)
    assert (cause.rows[0]["row"], cause.change) == ("rows.jsonl:7", ("a: b",))


def test_a_plateau_is_a_low_rate_where_nothing_was_learnt_before_and_nothing_else() -> None:
    stuck, learnt = (
        Finding("plateau", 300, "warn", {"loss": loss, "first_loss": 2.0}, "no gain").to_json()
        for loss in (2.0, 1.0)
    )
    assert [cause.kind for cause in health_causes([stuck])] == ["learning_rate_too_low"]
    assert list(health_causes([learnt])) == []


def test_a_spike_comes_after_all_that_may_have_caused_it() -> None:
    spike, dead = (Finding(kind, 5, "warn", {}, "why").to_json() for kind in ("loss_spike", "dead_adapter"))
    assert [cause.kind for cause in ranked(health_causes([spike, dead]))] == ["frozen_group", "loss_spike"]
