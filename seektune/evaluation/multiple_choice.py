"""Log-probability of each candidate answer, read where it first differs from all the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seektune.data.batches import collate
from seektune.data.packing import best_fit
from seektune.data.templates.render import turn_ids
from seektune.errors import DataError
from seektune.models.forward import evaluating, hidden_states
from seektune.models.load import Loaded
from seektune.types import IGNORE, Example, Message, Sample

TOKEN_BUDGET = 2048
"""Tokens of one row; a longer question has a row of its own."""

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """One term of an option's score: the log-probability of `token` after `position` of a sequence."""

    option: int
    position: int
    token: int


@dataclass(frozen=True, slots=True)
class Context:
    """One sequence to run for an example, and what to read from it."""

    example: int
    ids: Ids
    readings: tuple[Reading, ...]


def option_scores(loaded: Loaded, examples: Sequence[Example], token_budget: int = TOKEN_BUDGET) -> Tensor:
    """(examples, most options) float32 log-probabilities on the CPU, −inf where an example has fewer.

    An option is scored by its shortest token prefix that begins no other option of the example: options
    of different length compare fairly, and distinct first tokens cost one sequence a question. Raises
    DataError naming an example without options.
    """
    scores = torch.full(
        (len(examples), max((len(example.options) for example in examples), default=0)), -math.inf
    )
    contexts: list[Context] = []
    for index, example in enumerate(examples):
        scores[index, : len(example.options)] = 0.0
        contexts += _contexts(loaded, index, example)
    lengths = [len(context.ids) for context in contexts]
    rows = best_fit(range(len(contexts)), lengths, max(token_budget, *lengths, 0))
    with evaluating(loaded.model):
        for row in rows:
            _read(loaded, [contexts[member] for member in row], scores)
    return scores


def calibrated(scores: Tensor) -> Tensor:
    """Scores relative to how likely the model finds each option on average over the rows.

    log p(option | row) − log mean over rows of p(option | row), p normalised over the row's options: a
    constant preference for a label, whatever the question, neither helps nor hurts.
    """
    log_p = scores.log_softmax(1)
    return log_p - (log_p.logsumexp(0) - math.log(len(scores)))


def shortest_prefixes(options: Sequence[Ids]) -> list[Ids]:
    """For each option its shortest beginning that no other option has; the end token makes one certain."""
    prefixes = []
    for index, option in enumerate(options):
        others = [other for place, other in enumerate(options) if place != index]
        shared = max((_common(option, other) for other in others), default=0)
        assert shared < len(option), "an option is the beginning of another: the end token is missing"
        prefixes.append(option[: shared + 1])
    return prefixes


def _common(one: Ids, other: Ids) -> int:
    """Length of the common beginning."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _contexts(loaded: Loaded, index: int, example: Example) -> list[Context]:
    """The fewest sequences from which every option can be scored, each option from one of them."""
    prompt, prefixes = _tokens(loaded, example)
    needed = {prefix[:-1] for prefix in prefixes}
    longest = sorted(ids for ids in needed if not any(_begins(other, ids) for other in needed - {ids}))
    readings: dict[Ids, list[Reading]] = {ids: [] for ids in longest}
    for option, prefix in enumerate(prefixes):
        home = next(ids for ids in longest if _begins(ids, prefix[:-1]))
        readings[home] += [
            Reading(option, len(prompt) - 1 + place, token) for place, token in enumerate(prefix)
        ]
    return [Context(index, (*prompt, *ids), tuple(found)) for ids, found in readings.items()]


def _begins(ids: Ids, beginning: Ids) -> bool:
    return ids[: len(beginning)] == beginning


def _tokens(loaded: Loaded, example: Example) -> tuple[Ids, list[Ids]]:
    """The prompt, and of each option the prefix that tells it apart."""
    if len(example.options) < 2:
        raise DataError(
            f"{example.row_id} has no options to choose from: multiple choice needs a closed question"
        )
    answers = [Message("assistant", option) for option in example.options]
    try:
        turns = [turn_ids(loaded, [*example.prompt, answer]) for answer in answers]
    except DataError as error:
        raise DataError(f"{example.row_id}: {error}") from None
    prompt = turns[0][0]
    assert all(other == prompt for other, _ in turns), example.row_id
    return tuple(prompt), shortest_prefixes([tuple(ids) for _, ids in turns])


def _read(loaded: Loaded, contexts: Sequence[Context], scores: Tensor) -> None:
    """Run one row and add what it says to `scores`; the head sees only the positions that are read."""
    batch = collate([Sample(c.ids, (IGNORE,) * len(c.ids), "") for c in contexts]).to(loaded.device)
    hidden = hidden_states(
        loaded.model, loaded.family.packs, batch.input_ids, batch.position_ids, batch.cu_seqlens
    )
    read = [
        (context.example, reading.option, sequence.start + reading.position, reading.token)
        for context, sequence in zip(contexts, batch.sequences(), strict=True)
        for reading in context.readings
    ]
    example, option, position, token = torch.tensor(read).T
    distinct, which = position.unique(return_inverse=True)
    logits = loaded.model.get_output_embeddings()(hidden[distinct.to(hidden.device)])
    log_p = logits.float().log_softmax(-1).cpu()
    scores.index_put_((example, option), log_p[which, token], accumulate=True)
