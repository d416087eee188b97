from __future__ import annotations

import torch

from seektune.generation.sampling import next_token

LOGITS = torch.tensor([0.0, 2.0, -1.0, 1.0])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_temperature_zero_takes_the_likeliest_and_draws_nothing() -> None:
    source = generator()
    before = source.get_state()
    assert next_token(LOGITS, 0.0, source) == 1
    assert torch.equal(source.get_state(), before)


def test_draws_follow_the_softmax_at_the_temperature() -> None:
    source = generator()
    for temperature in (0.5, 2.0):
        drawn = torch.tensor([next_token(LOGITS, temperature, source) for _ in range(4000)])
        expected = (LOGITS / temperature).softmax(0)
        torch.testing.assert_close(drawn.bincount(minlength=4) / 4000, expected, rtol=0, atol=0.03)


def test_the_same_generator_state_draws_the_same_tokens() -> None:
    def draws() -> list[int]:
        source = generator(7)
        return [next_token(LOGITS, 1.0, source) for _ in range(20)]

    assert draws() == draws()


def test_half_precision_logits_are_sampled_in_float32() -> None:
    logits = torch.full((50_000,), 1.0, dtype=torch.bfloat16)
    drawn = {next_token(logits, 1.0, generator(seed)) for seed in range(20)}
    assert max(drawn) > 25_000  # bfloat16 probabilities would not sum up that far
