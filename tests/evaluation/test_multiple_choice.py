"""Option scores are the log-probabilities a plain forward gives, at the fewest tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.reading import read_records
from seektune.data.templates.render import turn_ids
from seektune.errors import DataError
from seektune.evaluation import multiple_choice
from seektune.evaluation.multiple_choice import calibrated, option_scores, shortest_prefixes
from seektune.models.load import Loaded, load_model
from seektune.types import Example, Message

SETS = [
    ("red", "green", "blue"),  # distinct first bytes
    ("bone", "bone marrow", "blood"),  # one is the beginning of another
    ("A. 1", "B. 2", "C. 3", "D. 4"),
    ("aab", "aac", "aa", "b"),
]


def asked(question: str, options: Sequence[str]) -> Example:
    messages = (Message("user", question), Message("assistant", options[0]))
    return Example(messages, f"rows.jsonl:{len(question)}", tuple(options), 0)


def rows() -> list[Example]:
    return [asked(f"which one {'please ' * n}?", options) for n, options in enumerate(SETS * 2)]


@torch.no_grad()
def one_by_one(loaded: Loaded, examples: Sequence[Example]) -> list[list[float]]:
    """The naive twin: every option of every question in a forward of its own, all logits."""
    scores = []
    for example in examples:
        turns = [
            turn_ids(loaded, [*example.prompt, Message("assistant", option)]) for option in example.options
        ]
        prefixes = shortest_prefixes([tuple(ids) for _, ids in turns])
        scores.append([])
        for (prompt, _), prefix in zip(turns, prefixes, strict=True):
            logits = loaded.model(torch.tensor([[*prompt, *prefix]]), use_cache=False).logits[0]
            log_p = logits.float().log_softmax(-1)
            scores[-1].append(sum(float(log_p[len(prompt) - 1 + n, token]) for n, token in enumerate(prefix)))
    return scores


@pytest.mark.parametrize("name", ["llama", "qwen2", "deepseek_v3", "deepseek_v4", "deepseek_vl"])
def test_scores_are_those_of_one_plain_forward_per_option(name: str) -> None:
    loaded = load_model(f"tiny/{name}")
    scores = option_scores(loaded, rows(), token_budget=200)
    for found, expected in zip(scores.tolist(), one_by_one(loaded, rows()), strict=True):
        assert found[: len(expected)] == pytest.approx(expected, abs=2e-4)
        assert found[len(expected) :] == [-math.inf] * (4 - len(expected))


def test_the_budget_changes_the_rows_and_not_the_scores() -> None:
    loaded = load_model("tiny/llama")
    alone, together = (option_scores(loaded, rows(), token_budget=budget) for budget in (1, 10_000))
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-4)


def test_distinct_first_tokens_cost_one_sequence_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model("tiny/deepseek_v3")
    ran: list[int] = []
    forward = multiple_choice.hidden_states

    def counted(*args: torch.Tensor) -> torch.Tensor:
        ran.append(len(args[-1]) - 1)
        return forward(*args)

    monkeypatch.setattr(multiple_choice, "hidden_states", counted)
    option_scores(loaded, [asked("?", SETS[0])] * 5)
    assert ran == [5]
    option_scores(loaded, [asked("?", SETS[1])])
    assert ran == [5, 1]  # read after "b" and after "bone": the second covers the first
    option_scores(loaded, [asked("?", ("aab", "aac", "ba", "bb"))])
    assert ran == [5, 1, 2]  # after "aa" and after "b"


def test_the_head_sees_only_the_positions_that_are_read() -> None:
    loaded = load_model("tiny/deepseek_v3")
    seen: list[int] = []
    head = loaded.model.get_output_embeddings()
    watch = head.register_forward_hook(lambda module, args, out: seen.append(out.shape[0]))
    option_scores(loaded, [asked("?", SETS[0])] * 5)
    watch.remove()
    assert seen == [5]


def test_scoring_leaves_the_model_as_it_was() -> None:
    loaded = load_model("tiny/llama")
    loaded.model.train()
    scores = option_scores(loaded, rows()[:1])
    assert loaded.model.training
    assert not scores.requires_grad
    loaded.model.eval()
    option_scores(loaded, rows()[:1])
    assert not loaded.model.training


def test_no_examples_give_no_scores() -> None:
    assert option_scores(load_model("tiny/llama"), []).shape == (0, 0)


def test_open_text_is_refused_by_row() -> None:
    with pytest.raises(DataError, match=r"rows.jsonl:1 has no options to choose from"):
        option_scores(load_model("tiny/llama"), [replace(asked("?", SETS[0]), options=())])


def test_a_template_that_cannot_say_an_option_is_refused_by_row() -> None:
    loaded = load_model("tiny/llama")
    assert loaded.tokenizer is not None
    loaded.tokenizer.chat_template = "{{ messages | length }}"
    with pytest.raises(DataError, match=r"rows.jsonl:1: the chat template"):
        option_scores(loaded, [asked("?", SETS[0])])


@given(st.lists(st.lists(st.integers(0, 2), max_size=5), min_size=2, max_size=6, unique_by=tuple))
def test_the_shortest_prefix_belongs_to_one_option_only(options: list[list[int]]) -> None:
    ended = [(*option, 9) for option in options]
    for index, prefix in enumerate(shortest_prefixes(ended)):
        having = [place for place, option in enumerate(ended) if option[: len(prefix)] == prefix]
        assert having == [index]
        shorter = [place for place, option in enumerate(ended) if option[: len(prefix) - 1] == prefix[:-1]]
        assert len(shorter) > 1


def test_calibration_removes_a_preference_that_no_question_caused() -> None:
    scores = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    preference = torch.tensor([5.0, 0.0, -5.0, 1.0])
    plain = calibrated(scores)
    torch.testing.assert_close(plain.exp().mean(0), torch.ones(4))
    # The reference's formula: p normalised over options, divided by its mean over the rows.
    p = scores.softmax(1)
    torch.testing.assert_close(plain, (p / p.mean(0)).log())
    assert (calibrated(preference.repeat(3, 1)).abs() < 1e-5).all()


def test_calibration_keeps_absent_options_absent() -> None:
    scores = torch.tensor([[0.0, -1.0, -math.inf], [0.0, -1.0, -2.0]])
    found = calibrated(scores)
    assert found[0, 2] == -math.inf
    assert torch.isfinite(found[scores > -math.inf]).all()


def test_real_letters_are_told_apart_by_one_token(real_data: Path) -> None:
    loaded = load_model("tiny/deepseek_v3")
    examples = read_records(real_data / "medmcqa/validation.jsonl")[:3]
    scores = option_scores(loaded, examples)
    assert scores.shape == (3, 4)
    for found, expected in zip(scores.tolist(), one_by_one(loaded, examples), strict=True):
        assert found == pytest.approx(expected, abs=2e-4)
