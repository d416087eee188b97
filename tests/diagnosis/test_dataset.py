"""What report.json says against a run."""

from __future__ import annotations

from typing import Any

from seektune.diagnosis.dataset import data_causes


def report(**changes: Any) -> dict[str, Any]:
    return {
        "config": {"dedup": {"leakage": "report"}},
        "splits": {"train": {"kept": 100}, "eval": {"kept": 50}},
        "total": 150,
        "leakage": {"exact": 0, "near": 0, "pairs": []},
        "duplicates": {"conflicts": 0, "conflicting": []},
        "drops": {},
        "match": None,
        "lengths": {"max_length": 128},
    } | changes


def kinds(*arguments: Any) -> list[str]:
    return [cause.kind for cause in data_causes(*arguments)]


def test_a_clean_report_has_no_cause() -> None:
    assert kinds(report()) == []


def test_leaks_are_a_cause_only_where_the_rows_were_kept() -> None:
    leak = {"exact": 4, "near": 1, "pairs": [{"train": "a:1", "eval": "b:2", "similarity": 1.0}]}
    (found,) = data_causes(report(leakage=leak))
    assert (found.kind, found.change) == ("leakage", ("data.dedup.leakage: drop",))
    assert found.rows[0]["row"] == "a:1"
    assert kinds(report(leakage=leak, config={"dedup": {"leakage": "drop"}})) == []


def match(area: float) -> dict[str, Any]:
    near = {"row": "a:1", "text": "x", "target": "y", "similarity": 0.1}
    interval = {"value": area, "low": area - 0.05, "high": min(area + 0.05, 1)}
    return {"differs": area > 0.55, "area": interval, "verdict": "They differ.", "farthest": [near]}


def test_a_clear_difference_from_target_or_held_out_rows_is_a_cause_and_a_slight_one_is_not() -> None:
    assert kinds(report(match=match(0.9))) == ["distribution_mismatch"]
    assert kinds(report(), match(0.9)) == ["distribution_mismatch"]
    assert kinds(report(match=match(0.6)), match(0.5)) == []


def test_contradicting_rows_and_lost_long_rows_are_causes() -> None:
    conflicts = {"conflicts": 5, "conflicting": [["a:1", "a:2"]]}
    assert kinds(report(duplicates=conflicts)) == ["contradictions"]
    assert kinds(report(duplicates={"conflicts": 1, "conflicting": []})) == []
    (found,) = data_causes(report(drops={"too_long": {"count": 40}}))
    assert found.change[0] == "data.max_length: 256"
