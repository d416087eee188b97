"""How the adapter judges the answers it was given, row by row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from seektune.diagnosis.labels import Judged
from seektune.models.forward import evaluating
from seektune.models.load import Loaded
from seektune.training.probe import rows_of
from seektune.training.step import TrainStep, scored
from seektune.types import Batch, Example


def judged_options(scores: Tensor, examples: Sequence[Example]) -> list[Judged]:
    """Closed rows by the log-probabilities of their options: (rows, most options), −inf for none."""
    found = []
    for row, example in zip(scores, examples, strict=True):
        assert example.answer is not None, example.row_id
        others = row.clone()
        others[example.answer] = -torch.inf
        surprise = float(others.max() - row[example.answer])
        preferred = example.options[int(row.argmax())]
        found.append(Judged(example.row_id, surprise, example.options[example.answer], preferred))
    return found


def judged_texts(loaded: Loaded, batches: Iterable[Batch], given: dict[str, str]) -> list[Judged]:
    """Open rows by the mean loss of their answers; `given` has the answers by row."""
    step, found = TrainStep(loaded), []
    with evaluating(loaded.model):
        for batch in batches:
            batch = batch.to(loaded.device)
            for row in rows_of([batch], [scored(step, batch)[2]]):
                if row.loss is not None:
                    found.append(Judged(row.row_id, row.loss, given.get(row.row_id, ""), closed=False))
    return found
