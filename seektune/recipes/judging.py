"""The model's view of the answers it was given, for `seektune diagnose`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from seektune.data.batches import Batches
from seektune.data.prepare import Prepared
from seektune.data.prepared import RowTable, SampleTable
from seektune.diagnosis.answers import judged_options, judged_texts
from seektune.diagnosis.labels import Judged, suspects
from seektune.evaluation.multiple_choice import option_scores
from seektune.generation.generate import generate
from seektune.models.load import Loaded
from seektune.recipes.evaluate import spread
from seektune.types import Example, Message

JUDGED, ASKED = 1000, 3
"""Rows of each split whose answers are judged, and suspicious open ones that are answered anew, at most."""


def judge(loaded: Loaded, rows: RowTable, samples: SampleTable) -> list[Judged]:
    """Every answer of a split, or an even spread of them: closed rows by their options, open ones by loss."""
    chosen = [row for row in spread(rows, JUDGED) if isinstance(row, Example)]
    closed = [row for row in chosen if row.answer is not None and len(row.options) > 1]
    if closed:
        return judged_options(option_scores(loaded, closed), closed)
    given = {row.row_id: row.messages[-1].content for row in chosen}
    batches = Batches(samples=spread(samples, JUDGED), batch_size=8, shuffle=False)
    return answered(loaded, judged_texts(loaded, batches, given), {row.row_id: row.prompt for row in chosen})


def answered(loaded: Loaded, rows: list[Judged], prompts: Mapping[str, Sequence[Message]]) -> list[Judged]:
    """The rows, the most suspicious ones with what the model would have said."""
    asked = [row for row in suspects(rows)[:ASKED] if row.row in prompts]
    said = {row.row: generate(loaded, tuple(prompts[row.row]), max_new_tokens=64).text for row in asked}
    return [replace(row, preferred=said.get(row.row, "")) for row in rows]


def splits(data: Prepared) -> list[tuple[RowTable, SampleTable]]:
    """Training and held-out rows, as far as there are any."""
    pairs = [(data.train_rows, data.train), (data.held_out_rows, data.held_out)]
    return [(rows, samples) for rows, samples in pairs if len(rows)]
