from __future__ import annotations

import json

from seektune.training.finding import Action, Finding, Origin, Row, strongest


def finding(action: Action) -> Finding:
    return Finding(
        "non_finite",
        7,
        action,
        {"loss": float("nan")},
        "values overflow in model.layers.1.mlp (layer 1)",
        ("training.bf16: true",),
        (Row("a.jsonl:3", 40, 0.25, float("inf")), Row("a.jsonl:4", 120, 0.75)),
        Origin("model.layers.1.mlp", 1, "output"),
    )


def test_the_severest_action_wins() -> None:
    assert strongest([finding("skip"), finding("rollback"), finding("warn")]) == "rollback"
    assert strongest([finding("stop"), finding("rollback")]) == "stop"
    assert strongest([]) is None


def test_a_finding_reads_as_a_report() -> None:
    assert str(finding("stop")).splitlines() == [
        "step 7: non finite (loss nan)",
        "  values overflow in model.layers.1.mlp (layer 1)",
        "  a.jsonl:3: 40 tokens, 25% of the step, loss inf",
        "  a.jsonl:4: 120 tokens, 75% of the step, no loss",
        "  change: training.bf16: true",
        "  the run stops here",
    ]


def test_a_record_keeps_what_is_not_a_number() -> None:
    record = json.loads(json.dumps(finding("stop").to_json()))
    assert record["evidence"]["loss"] != record["evidence"]["loss"]
    assert record["rows"][0] == {"row_id": "a.jsonl:3", "tokens": 40, "share": 0.25, "loss": float("inf")}
    assert record["origin"]["layer"] == 1


def test_a_finding_comes_back_from_its_record() -> None:
    bare = Finding("plateau", 400, "warn", {"loss": 2.0}, "nothing more to learn", groups=("attention",))
    for one in (finding("skip"), bare):
        assert str(Finding.from_json(json.loads(json.dumps(one.to_json())))) == str(one)
    assert Finding.from_json(json.loads(json.dumps(bare.to_json()))) == bare
