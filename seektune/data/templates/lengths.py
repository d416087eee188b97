"""What becomes of rows longer than max_length, and what the lengths of all rows cost.

A row of n inputs is n + 1 tokens: the last is a target only. BOS, the opening of the last answer, the answer
and its end are never cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from seektune.data.records import Dropped
from seektune.data.templates.render import render
from seektune.data.templates.skeletons import PROBE
from seektune.types import IGNORE, Chat, Message, Sample

Policy = Literal["drop", "cut_left", "cut_right", "cut_middle", "split"]


@dataclass(frozen=True, slots=True)
class Frame:
    """What a cut leaves standing: BOS, system prompt, and the tokens that open a question and an answer."""

    bos: int | None = None
    opening: int = 0
    asked: tuple[int, ...] = ()  # the mark before a question, such as `<｜User｜>`


_NO_FRAME = Frame()


def frame_of(chat: Chat) -> Frame:
    """The frame of a model's chat template; `opening` is 2 for `<｜Assistant｜></think>`."""
    prompt = render(chat, [Message("user", PROBE)], add_generation_prompt=True)
    before, _, after = prompt.rpartition(PROBE)
    # A blank before the question is a part of its first token.
    before = before.removeprefix(chat.tokenizer.bos_token or "").rstrip(" ")
    asked, opening = (chat.tokenizer.encode(text, add_special_tokens=False) for text in (before, after))
    return Frame(chat.tokenizer.bos_token_id, len(opening), tuple(asked))


def fit(sample: Sample, max_length: int, policy: Policy, frame: Frame = _NO_FRAME) -> list[Sample] | Dropped:
    """The sample as rows of at most `max_length` tokens, or why it is left out.

    The cuts take from what lies between the first question's opening and the last answer, history and
    question alike: its beginning, its end or its middle. `split` parts a conversation after trained turns,
    each part with a BOS of its own and no more of the system prompt than the first, and plain text wherever
    max_length falls.
    """
    if len(sample) < max_length:
        return [sample]
    tokens = len(sample) + 1
    if policy == "drop":
        return Dropped(sample.row_id, "too long", f"{tokens} tokens, max_length {max_length}")
    if policy == "split":
        return _split(sample, max_length, frame)
    start = _last_answer(sample)
    low = _first_question(sample, frame)
    high = max(start - frame.opening, low)
    excess = tokens - max_length
    if excess > high - low:
        least = tokens - (high - low)
        return Dropped(
            sample.row_id, "answer too long", f"at least {least} of {tokens} tokens, max_length {max_length}"
        )
    begin = {"cut_left": low, "cut_right": high - excess}.get(policy, (low + high - excess) // 2)
    return [_without(sample, begin, begin + excess)]


def percentiles(lengths: Sequence[int] | NDArray[Any]) -> dict[str, float]:
    """min, p50, p90, p95, p99, max, mean and total of lengths in tokens; nothing for no rows."""
    found = np.asarray(lengths)
    if not found.size:
        return {}
    ranks = np.percentile(found, [0, 50, 90, 95, 99, 100]).tolist()
    names = ("min", "p50", "p90", "p95", "p99", "max")
    return dict(zip(names, ranks, strict=True)) | {"mean": float(found.mean()), "total": int(found.sum())}


def costliest(
    lengths: Sequence[int] | NDArray[Any], name: Callable[[int], str], k: int = 10
) -> list[dict[str, Any]]:
    """The k longest rows, longest first: `row` (its `name`), `tokens` and their `share` of all tokens."""
    found = np.asarray(lengths)
    total = max(int(found.sum()), 1)
    return [
        {"row": name(at), "tokens": int(found[at]), "share": int(found[at]) / total}
        for at in np.argsort(-found, kind="stable")[:k].tolist()
    ]


def _first_question(sample: Sample, frame: Frame) -> int:
    """Index of the first token of the first question, behind its mark; behind BOS where there is no mark."""
    ids, mark = [int(token) for token in sample.input_ids], list(frame.asked)
    if mark:
        for place in range(len(ids) - len(mark) + 1):
            if ids[place : place + len(mark)] == mark:
                return place + len(mark)
    return int(frame.bos is not None and ids[0] == frame.bos)


def _last_answer(sample: Sample) -> int:
    """Index of the token with which the last trained run begins; everything after it stays too."""
    trained = np.flatnonzero(np.asarray(sample.targets) != IGNORE)
    if not trained.size:
        return len(sample)  # only the last token is sure to be the answer's
    gaps = np.flatnonzero(np.diff(trained) > 1)
    return int(trained[gaps[-1] + 1] if gaps.size else trained[0]) + 1


def _without(sample: Sample, begin: int, end: int) -> Sample:
    """The sample without tokens begin … end - 1; the token before the gap then predicts the one after it.

    What is left of an earlier answer that the cut beheads is not trained.
    """
    cut, rest = max(begin - 1, 0), max(begin - 1, 0) + end - begin
    targets = list(sample.targets[:cut]), list(sample.targets[rest:])
    if end > 1 and IGNORE not in (sample.targets[end - 2], sample.targets[end - 1]):
        beheaded = next((at for at, target in enumerate(targets[1]) if target == IGNORE), len(targets[1]))
        targets[1][:beheaded] = [IGNORE] * beheaded
    return replace(
        sample,
        input_ids=(*sample.input_ids[:begin], *sample.input_ids[end:]),
        targets=(*targets[0], *targets[1]),
        weight=sample.weight
        if isinstance(sample.weight, float | int)
        else (*sample.weight[:cut], *sample.weight[rest:]),
    )


def _split(sample: Sample, max_length: int, frame: Frame) -> list[Sample] | Dropped:
    """Ranges of positions, the first of each holding BOS instead of the token that stood there."""
    targets = np.asarray(sample.targets)
    has_bos = frame.bos is not None and sample.input_ids[0] == frame.bos
    text = (targets != IGNORE).all()
    room = max_length - 1
    ends = range(room, len(sample), room) if text else _turn_ends(targets, room)
    parts = []
    for begin, end in pairwise([0, *ends, len(sample)]):
        start = begin if has_bos or text or not begin else begin + 1  # a turn begins with its own token
        if end - start > room:
            detail = f"a turn of {end - start + 1} tokens, max_length {max_length}"
            return Dropped(sample.row_id, "answer too long", detail)
        parts.append(_part(sample, slice(start, end), has_bos))
    return parts


def _turn_ends(targets: NDArray[Any], room: int) -> Iterator[int]:
    """Where to part: after as many trained turns as fit, each time."""
    trained = np.flatnonzero(targets != IGNORE)
    last = trained[np.append(np.diff(trained) > 1, True)] if trained.size else trained
    begin = 0
    for end, following in pairwise([*(last[:-1] + 1).tolist(), len(targets)]):
        if following - begin > room:
            yield end
            begin = end


def _part(sample: Sample, kept: slice, has_bos: bool) -> Sample:
    inputs = tuple(sample.input_ids[kept])
    return replace(
        sample,
        input_ids=(sample.input_ids[0], *inputs[1:]) if has_bos else inputs,
        targets=tuple(sample.targets[kept]),
        weight=sample.weight if isinstance(sample.weight, float | int) else tuple(sample.weight[kept]),
    )
