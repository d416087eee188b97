"""Rows that are too long lose what stands before the answer, never the answer; lengths are summed up."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.records import Dropped
from seektune.data.templates.lengths import Frame, Policy, costliest, fit, frame_of, percentiles
from seektune.data.templates.render import to_sample
from seektune.data.templates.texts import TEMPLATES
from seektune.types import IGNORE, Example, Message, Sample

POLICIES = get_args(Policy)
BOS, OPEN = 0, 99
FRAME = Frame(bos=BOS, opening=1)


def row(*turns: tuple[int, int], weights: bool = False, bos: bool = True) -> Sample:
    """A conversation of (question, answer) token counts, OPEN before each answer; tokens differ."""
    tokens, trained = [BOS] * bos, [False] * bos
    for question, answer in turns:
        tokens += [*range(len(tokens) + 100, len(tokens) + 100 + question), OPEN]
        trained += [False] * (question + 1)
        tokens += range(len(tokens) + 100, len(tokens) + 100 + answer)
        trained += [True] * answer
    targets = tuple(t if learn else IGNORE for t, learn in zip(tokens, trained, strict=True))
    weight = tuple(float(t) for t in tokens[1:]) if weights else 1.0
    return Sample(tuple(tokens[:-1]), targets[1:], "rows:1", weight)


def tokens_of(sample: Sample) -> list[int]:
    return [*sample.input_ids, sample.targets[-1]]


def answers(sample: Sample) -> list[int]:
    return [target for target in sample.targets if target != IGNORE]


def agrees(sample: Sample) -> bool:
    """Every target is the token that follows; every weight is that token's."""
    tokens = tokens_of(sample)
    right = all(t in (IGNORE, tokens[n + 1]) for n, t in enumerate(sample.targets))
    weights = sample.weight if isinstance(sample.weight, tuple) else tokens[1:]
    return right and len(sample.targets) == len(sample) and list(weights) == tokens[1:]


def test_a_row_that_fits_is_left_alone() -> None:
    sample = row((4, 3))  # 9 tokens
    for policy in POLICIES:
        assert fit(sample, 9, policy, FRAME) == [sample]
        assert fit(sample, 8, policy, FRAME) != [sample]


def test_drop_says_how_long_it_was() -> None:
    assert fit(row((4, 3)), 8, "drop") == Dropped("rows:1", "too long", "9 tokens, max_length 8")


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("cut_left", [BOS, 103, 104, OPEN, 106, 107, 108]),
        ("cut_right", [BOS, 101, 102, OPEN, 106, 107, 108]),
        ("cut_middle", [BOS, 101, 104, OPEN, 106, 107, 108]),
    ],
)
def test_a_cut_takes_the_beginning_the_end_or_the_middle_of_what_precedes_the_answer(
    policy: Policy, kept: list[int]
) -> None:
    [cut] = fit(row((4, 3), weights=True), 7, policy, FRAME)
    assert tokens_of(cut) == kept
    assert answers(cut) == [106, 107, 108]
    assert agrees(cut)


turns = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4)


@given(turns, st.integers(2, 40), st.sampled_from(POLICIES[1:4]), st.booleans(), st.booleans())
def test_a_cut_keeps_bos_the_last_answer_and_its_opening(
    parts: list[tuple[int, int]], max_length: int, policy: Policy, weights: bool, bos: bool
) -> None:
    sample = row(*parts, weights=weights, bos=bos)
    least = bos + 1 + parts[-1][1]
    found = fit(sample, max_length, policy, FRAME)
    if isinstance(found, Dropped):
        assert found.reason == "answer too long"
        assert max_length < min(least, len(sample) + 1)
        return
    [cut] = found
    assert len(cut) + 1 == min(max_length, len(sample) + 1)
    assert tokens_of(cut)[-parts[-1][1] - 1 :] == tokens_of(sample)[-parts[-1][1] - 1 :]
    assert answers(cut)[-parts[-1][1] :] == answers(sample)[-parts[-1][1] :]
    assert set(answers(cut)) <= set(answers(sample))
    assert agrees(cut)
    assert not bos or cut.input_ids[0] == BOS


def test_the_rest_of_an_answer_that_lost_its_beginning_is_not_trained() -> None:
    [cut] = fit(row((1, 6), (1, 2)), 9, "cut_left", FRAME)
    assert tokens_of(cut)[:4] == [BOS, 105, 106, 107]
    assert answers(cut) == tokens_of(cut)[-2:]


def test_an_answer_that_does_not_fit_alone_drops_the_row() -> None:
    found = fit(row((4, 30)), 20, "cut_left", FRAME)
    assert found == Dropped("rows:1", "answer too long", "at least 32 of 36 tokens, max_length 20")


@given(turns, st.integers(2, 30), st.booleans(), st.booleans())
def test_a_split_parts_after_answers_and_loses_nothing(
    parts: list[tuple[int, int]], max_length: int, weights: bool, bos: bool
) -> None:
    sample = row(*parts, weights=weights, bos=bos)
    found = fit(sample, max_length, "split", FRAME)
    if isinstance(found, Dropped):
        assert max(sum(part) + 1 + bos for part in parts) > max_length
        return
    assert all(len(part) < max_length for part in found)
    assert [target for part in found for target in answers(part)] == answers(sample)
    whole = [token for part in found for token in tokens_of(part)[bos:]]
    assert [BOS] * bos + whole == tokens_of(sample)
    assert all(agrees(part) for part in found)


def test_a_split_takes_as_many_turns_as_fit() -> None:
    found = fit(row((1, 2), (1, 2), (1, 2), (1, 2), (1, 2)), 9, "split", FRAME)
    assert isinstance(found, list)
    assert [len(answers(part)) for part in found] == [4, 4, 2]
    assert fit(row((1, 2), (9, 9)), 9, "split", FRAME) == Dropped(
        "rows:1", "answer too long", "a turn of 20 tokens, max_length 9"
    )


@given(st.integers(3, 60), st.integers(2, 20), st.booleans())
def test_plain_text_is_split_wherever_max_length_falls(length: int, max_length: int, bos: bool) -> None:
    tokens = [BOS] * bos + list(range(100, 100 + length))
    sample = Sample(tuple(tokens[:-1]), tuple(tokens[1:]), "rows:1")
    found = fit(sample, max_length, "split", FRAME)
    assert isinstance(found, list)
    assert all(len(part) < max_length and agrees(part) for part in found)
    assert [token for part in found for token in tokens_of(part)[1:]] == tokens[1:]
    if bos:
        assert {part.input_ids[0] for part in found} == {BOS}
        assert [target for part in found for target in part.targets] == tokens[1:]


def test_arrays_are_cut_as_tuples_are() -> None:
    sample = row((4, 3), weights=True)
    arrays = Sample(*map(np.asarray, (sample.input_ids, sample.targets)), "rows:1", np.asarray(sample.weight))
    for policy in POLICIES[1:]:
        assert fit(arrays, 8, policy, FRAME) == fit(sample, 8, policy, FRAME)


def test_the_frame_is_read_from_the_chat_template(tokenizer: Any) -> None:
    openings = {}
    for name in TEMPLATES:
        own = copy.copy(tokenizer)
        chat = SimpleNamespace(tokenizer=own, template=name)
        frame = frame_of(chat)
        openings[name] = frame.opening
        text = "medicine" + " and more" * 50
        sample = to_sample(chat, Example((Message("user", text), Message("assistant", "a.")), "rows:1"))
        [cut] = fit(sample, len(sample) - 9, "cut_right", frame)
        asked = to_sample(chat, Example((Message("user", "a"), Message("assistant", "a.")), "rows:1"))
        count = frame.opening + len(answers(sample))
        assert tokens_of(cut)[-count:] == tokens_of(asked)[-count:]
        assert cut.input_ids[0] == tokenizer.bos_token_id
    assert openings["deepseek_v3"] == 1
    assert openings["deepseek_v31"] == 2


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v3", "deepseek_v31"])
@pytest.mark.parametrize("policy", ["cut_left", "cut_middle", "cut_right"])
def test_a_cut_leaves_system_prompt_and_question_mark_standing(
    tokenizer: Any, name: str, policy: Policy
) -> None:
    chat = SimpleNamespace(tokenizer=copy.copy(tokenizer), template=name)
    system, answer = Message("system", "Be brief."), Message("assistant", "Yes.")

    def tokens(text: str) -> Sample:
        return to_sample(chat, Example((system, Message("user", text), answer), "rows:1"))

    long, short = tokens("w " * 90), tokenizer.decode(tokens("w").input_ids)
    [cut] = fit(long, 40, policy, frame_of(chat))
    assert len(cut) < 40
    before = short.partition("w")[0].rstrip()
    assert tokenizer.decode(cut.input_ids).startswith(before)
    assert before.startswith(f"{tokenizer.bos_token}Be brief.")


def test_percentiles_and_the_rows_that_cost_most() -> None:
    lengths = [10] * 98 + [100, 920]
    assert percentiles(lengths) == {
        "min": 10, "p50": 10, "p90": 10, "p95": 10, "p99": pytest.approx(108.2), "max": 920,
        "mean": 20, "total": 2000,
    }  # fmt: skip
    assert percentiles([]) == {}
    names = [f"rows:{n}" for n in range(100)]
    assert costliest(np.asarray(lengths), names.__getitem__, k=3) == [
        {"row": "rows:99", "tokens": 920, "share": 0.46},
        {"row": "rows:98", "tokens": 100, "share": 0.05},
        {"row": "rows:0", "tokens": 10, "share": 0.005},
    ]
    assert costliest([], str) == []
