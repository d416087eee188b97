from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from seektune.generation.request import Sampling
from seektune.generation.sampling import Row, choose, distribution, logprobs

LOGITS = torch.tensor([0.0, 2.0, -1.0, 1.0])
WIDE = 3 * torch.randn(3, 200, generator=torch.Generator().manual_seed(5))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(scores: Tensor, source: torch.Generator, **sampling: Any) -> int:
    (token,) = choose(scores[None], [Row(Sampling(**sampling), source)])
    return token


def test_temperature_zero_takes_the_likeliest_and_draws_nothing() -> None:
    source = generator()
    before = source.get_state()
    assert draw(LOGITS, source) == 1
    assert torch.equal(source.get_state(), before)


def test_draws_follow_the_softmax_at_the_temperature() -> None:
    source = generator()
    for temperature in (0.5, 2.0):
        drawn = torch.tensor([draw(LOGITS, source, temperature=temperature) for _ in range(4000)])
        expected = (LOGITS / temperature).softmax(0)
        torch.testing.assert_close(drawn.bincount(minlength=4) / 4000, expected, rtol=0, atol=0.03)


def test_the_same_generator_state_draws_the_same_tokens() -> None:
    def draws() -> list[int]:
        source = generator(7)
        return [draw(LOGITS, source, temperature=1.0) for _ in range(20)]

    assert draws() == draws()


def test_half_precision_logits_are_sampled_in_float32() -> None:
    logits = torch.full((50_000,), 1.0, dtype=torch.bfloat16)
    drawn = {draw(logits, generator(seed), temperature=1.0) for seed in range(20)}
    assert max(drawn) > 25_000  # bfloat16 probabilities would not sum up that far


def test_the_smallest_temperature_is_greedy_and_overflows_nothing() -> None:
    assert draw(1e4 * LOGITS, generator(), temperature=1e-30) == 1


@given(
    st.fixed_dictionaries(
        {
            "temperature": st.floats(0, exclude_min=True, allow_infinity=False),
            "top_k": st.integers(0, 2**70),
            "top_p": st.floats(0, 1, exclude_min=True),
            "min_p": st.floats(0, 1),
            "presence_penalty": st.floats(-2, 2),
            "frequency_penalty": st.floats(-2, 2),
            "repetition_penalty": st.floats(0.01, 100),
        }
    ),
    st.floats(1e-30, 1e38),
)
def test_whatever_may_be_asked_for_leaves_probabilities(settings: dict[str, Any], scale: float) -> None:
    row = Row(Sampling(**settings), generator(), prompt=(0, 3), answer=(1, 1, 2))
    probabilities = distribution(scale * LOGITS, row)
    assert probabilities.sum().item() == pytest.approx(1)
    assert choose(scale * LOGITS[None], [row])


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 5},
        {"top_k": 500},
        {"top_p": 0.7},
        {"top_p": 1e-6},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"repetition_penalty": 1.7},
        {"repetition_penalty": 0.6},
        {"top_k": 20, "top_p": 0.8, "min_p": 0.05, "repetition_penalty": 1.3},
    ],
)
@pytest.mark.parametrize("temperature", [0.6, 1.4])
def test_the_distribution_is_that_of_transformers_processors(
    settings: dict[str, float], temperature: float
) -> None:
    prompt, answer = [3, 4, 4, 9], [11, 3]
    processors = LogitsProcessorList(
        [RepetitionPenaltyLogitsProcessor(float(settings.get("repetition_penalty", 1.0)))]
    )
    processors.append(TemperatureLogitsWarper(temperature))
    if "top_k" in settings:
        processors.append(TopKLogitsWarper(int(settings["top_k"])))
    if "top_p" in settings:
        processors.append(TopPLogitsWarper(settings["top_p"]))
    if "min_p" in settings:
        processors.append(MinPLogitsWarper(settings["min_p"]))
    ids = torch.tensor([prompt + answer]).expand(3, -1)
    expected = processors(ids, WIDE.clone()).softmax(-1)
    sampling = Sampling(temperature=temperature, **settings)  # type: ignore[arg-type]
    for row, wanted in zip(WIDE, expected, strict=True):
        found = distribution(row, Row(sampling, None, prompt, answer))
        assert torch.equal(found > 0, wanted > 0)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_presence_and_frequency_count_the_answer_alone() -> None:
    sampling = Sampling(temperature=1.0, presence_penalty=0.5, frequency_penalty=0.25)
    found = distribution(LOGITS, Row(sampling, None, prompt=[0, 0], answer=[1, 3, 1]))
    expected = (LOGITS - torch.tensor([0, 0.5 + 2 * 0.25, 0, 0.5 + 0.25])).softmax(-1)
    torch.testing.assert_close(found, expected)


def test_penalties_move_the_greedy_choice_too() -> None:
    rows = [Row(Sampling(presence_penalty=2.0), answer=[1]), Row(Sampling(), answer=[1])]
    before = LOGITS.clone()
    assert choose(LOGITS.expand(2, -1), rows) == [3, 1]
    assert torch.equal(LOGITS, before)


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    hot = Sampling(temperature=1.0, top_p=0.9)
    alone = [choose(WIDE[i : i + 1], [Row(hot, generator(i))])[0] for i in range(3)]
    assert choose(WIDE, [Row(hot, generator(i)) for i in range(3)]) == alone
    mixed = choose(WIDE, [Row(hot, generator(0)), Row(Sampling()), Row(hot, generator(2))])
    assert [mixed[0], mixed[2]] == [alone[0], alone[2]]
    assert mixed[1] == int(WIDE[1].argmax())


def test_logprobs_name_the_chosen_and_the_likeliest() -> None:
    entry = logprobs(LOGITS, 3, 2)
    log_p = LOGITS.log_softmax(0).tolist()
    assert (entry.token, entry.logprob) == (3, pytest.approx(log_p[3]))
    assert [token for token, _ in entry.top] == [1, 3]
    assert len(logprobs(LOGITS, 3, 20).top) == 4
    assert logprobs(LOGITS, 3, 0).top == ()
