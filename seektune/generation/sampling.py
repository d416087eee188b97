"""From logits to the next token of each sequence; a row's choice depends on that row alone."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from seektune.generation.request import Sampling, TokenLogprob

_FLOAT32 = torch.finfo(torch.float32)


@dataclass(frozen=True, slots=True)
class Row:
    """How one row of logits is to be used; `generator`, on the logits' device, is not touched when greedy."""

    sampling: Sampling
    generator: torch.Generator | None = None
    prompt: Rows[int] = ()
    answer: Rows[int] = ()


def choose(logits: Tensor, rows: Rows[Row]) -> list[int]:
    """The next token of each row: logits (N, V) → N tokens."""
    scores = logits.float()  # as transformers' generate compares them
    tokens: list[int] = scores.argmax(-1).tolist()
    for index, row in enumerate(rows):
        if row.sampling.temperature > 0:
            # One row at a time: a batched draw would tie each row's numbers to its neighbours.
            drawn = torch.multinomial(distribution(scores[index], row), 1, generator=row.generator)
            tokens[index] = int(drawn)
        elif _penalises(row.sampling):
            tokens[index] = int(_penalised(scores[index], row).argmax())
    return tokens


def distribution(scores: Tensor, row: Row) -> Tensor:
    """The probabilities (V,) a token is drawn from, at a temperature above 0.

    Penalties, then temperature, top-k, top-p and min-p, in the order of transformers' logits processors.
    """
    sampling = row.sampling
    scores = _penalised(scores, row) if _penalises(sampling) else scores
    # From the highest down, and at a temperature that float32 has: what overflows is −∞, a probability of 0.
    temperature = min(max(sampling.temperature, _FLOAT32.tiny), _FLOAT32.max)
    scores = (scores - scores.max()) / temperature
    if 0 < sampling.top_k < len(scores):
        scores = scores.masked_fill(scores < scores.topk(sampling.top_k).values[-1], -torch.inf)
    if sampling.top_p < 1:
        ascending, order = scores.sort()
        dropped = ascending.softmax(-1).cumsum(-1) <= 1 - sampling.top_p
        dropped[-1] = False
        scores = scores.masked_fill(torch.empty_like(dropped).index_copy_(0, order, dropped), -torch.inf)
    probabilities = scores.softmax(-1)
    if sampling.min_p > 0:
        floor = sampling.min_p * probabilities.max()
        probabilities = scores.masked_fill(probabilities < floor, -torch.inf).softmax(-1)
    return probabilities


def logprobs(logits: Tensor, token: int, top: int) -> TokenLogprob:
    """What the model itself, before penalties and temperature, gives `token` and the likeliest: (V,)."""
    log_p = logits.float().log_softmax(-1)
    values, indices = log_p.topk(min(top, len(log_p)))
    return TokenLogprob(
        token, float(log_p[token]), tuple(zip(indices.tolist(), values.tolist(), strict=True))
    )


def _penalises(sampling: Sampling) -> bool:
    neutral = (
        sampling.presence_penalty == sampling.frequency_penalty == 0 and sampling.repetition_penalty == 1
    )
    return not neutral


def _penalised(scores: Tensor, row: Row) -> Tensor:
    """Repetition counts prompt and answer (Keskar et al. 2019), the other two the answer (OpenAI)."""
    sampling, scores = row.sampling, scores.clone()
    if sampling.repetition_penalty != 1:
        seen = torch.tensor(sorted({*row.prompt, *row.answer}), device=scores.device)
        held = scores[seen]
        factor = torch.where(held < 0, sampling.repetition_penalty, 1 / sampling.repetition_penalty)
        scores[seen] = (held * factor).clamp(_FLOAT32.min, _FLOAT32.max)
    if row.answer and (sampling.presence_penalty or sampling.frequency_penalty):
        answer = torch.tensor(list(row.answer), device=scores.device)
        tokens, counts = answer.unique(return_counts=True)
        scores[tokens] -= sampling.presence_penalty + sampling.frequency_penalty * counts
    return scores
