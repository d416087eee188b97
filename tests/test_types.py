"""The nouns that cross rooms."""

from __future__ import annotations

import json

import torch

from seektune.types import Batch, Evaluation, Example, Inventory, InventoryRow, Message, Score, StepMetrics


def ragged() -> Batch:
    return Batch(
        input_ids=torch.arange(5)[None],
        position_ids=torch.tensor([[0, 1, 0, 1, 2]]),
        cu_seqlens=torch.tensor([0, 2, 5], dtype=torch.int32),
        targets=torch.zeros(1, 5, dtype=torch.long),
        weights=torch.ones(1, 5),
        row_ids=("a:1", "a:2"),
    )


def test_a_batch_names_the_token_range_of_each_sequence() -> None:
    assert list(ragged().sequences()) == [slice(0, 2), slice(2, 5)]


def test_a_moved_batch_keeps_its_rows() -> None:
    moved = ragged().to("meta")
    assert moved.input_ids.device.type == "meta"
    assert moved.row_ids == ("a:1", "a:2")


def test_the_prompt_is_everything_before_the_last_answer() -> None:
    question, answer = Message("user", "q"), Message("assistant", "a")
    assert Example((question, answer), "a:1").prompt == (question,)
    assert Example((question,), "a:1").prompt == (question,)


def test_an_inventory_prints_a_line_per_group_and_the_share() -> None:
    rows = (
        InventoryRow("attention", 4, 4, 1000, 50, 200),
        InventoryRow("routed", 0, 2, 9000, 0, 0),
    )
    text = str(Inventory(rows, total_parameters=10_000))
    assert "4 of 4" in text
    assert text.endswith("trains 50 of 10,000 parameters (0.50%)")


def test_inventories_and_evaluations_are_plain_json() -> None:
    score = Score(0.5, 0.4, 0.6)
    evaluation = Evaluation("m", "t", 10, score, score, score, 0.1, 0.2, 0.01, 0.005, True, 1.0)
    assert json.loads(json.dumps(evaluation.to_json()))["base"] == {"accuracy": 0.5, "low": 0.4, "high": 0.6}
    inventory = Inventory((InventoryRow("dense", 1, 1, 10, 1, 4),), 10)
    assert json.loads(json.dumps(inventory.to_json()))["trainable_share"] == 0.1


def test_speed_is_tokens_over_seconds_even_in_no_time() -> None:
    assert StepMetrics(1, 0.1, 2.0, 1e-4, 1.0, tokens=10, seconds=2.0).tokens_per_second == 5
    assert StepMetrics(1, 0.1, 2.0, 1e-4, 1.0, tokens=10, seconds=0.0).tokens_per_second > 0
