"""The model's view of the answers of a run."""

from __future__ import annotations

from pathlib import Path

from health_runs import adapted

from seektune.data.prepare import open_prepared
from seektune.diagnosis.labels import Judged
from seektune.recipes.adapted import open_adapted
from seektune.recipes.judging import ASKED, answered, judge, splits
from seektune.types import Message


def test_closed_rows_of_both_splits_are_judged_with_the_label_the_model_prefers(finished: Path) -> None:
    loaded, data = open_adapted(str(finished)), open_prepared(finished / "data")
    train, held_out = (judge(loaded, rows, samples) for rows, samples in splits(data))
    assert (len(train), len(held_out)) == (len(data.train_rows), len(data.held_out_rows))
    labels = {"Cardiology", "Dermatology", "Ophthalmology"}
    assert all(row.closed and {row.given, row.preferred} <= labels for row in train)
    assert all((row.preferred == row.given) == (row.surprise <= 0) for row in train)


def test_the_most_suspicious_open_answers_are_given_anew() -> None:
    rows = [Judged(f"a:{n}", 1.0 if n < 40 else 50.0 + n, "said", closed=False) for n in range(50)]
    prompts = {row.row: (Message("user", "Where?"),) for row in rows}
    asked = [row.row for row in answered(adapted("llama"), rows, prompts) if row.preferred]
    assert set(asked) <= {f"a:{n}" for n in range(49, 49 - ASKED, -1)}
