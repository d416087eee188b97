"""The adapter's view of the answers."""

from __future__ import annotations

import torch
from health_runs import adapted, rows

from seektune.data.batches import Batches
from seektune.diagnosis.answers import judged_options, judged_texts
from seektune.types import Example, Message


def test_a_closed_row_is_as_surprising_as_the_best_other_answer_is_likelier() -> None:
    messages = (Message("user", "?"), Message("assistant", "甲"))
    examples = [
        Example(messages, f"a:{n}", ("甲", "乙", "丙")[:options], 0) for n, options in ((1, 3), (2, 2))
    ]
    scores = torch.tensor([[-3.0, -1.0, -2.0], [-1.0, -4.0, -torch.inf]])
    wrong, right = judged_options(scores, examples)
    assert (wrong.surprise, wrong.given, wrong.preferred) == (2.0, "甲", "乙")
    assert (right.surprise, right.preferred) == (-3.0, "甲")


def test_an_open_row_is_as_surprising_as_its_loss_and_the_mode_is_restored() -> None:
    loaded = adapted("llama")
    loaded.model.train()
    samples = rows("labels", 6)
    batches = Batches(samples=samples, batch_size=4, shuffle=False)
    found = judged_texts(loaded, batches, {"rows.jsonl:1": "said"})
    assert [row.row for row in found] == [sample.row_id for sample in samples]
    assert all(row.surprise > 0 and not row.closed for row in found)
    assert found[0].given == "said"
    assert loaded.model.training
