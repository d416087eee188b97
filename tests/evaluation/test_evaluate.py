"""One typed line: base, calibrated base and tuned on the same rows, beside the simple baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from seektune.adapters.attach import activate, attach
from seektune.adapters.inventory import inventory
from seektune.config.adapter import AdapterSpec
from seektune.errors import AdapterError, DataError
from seektune.evaluation.compare import mcnemar, wilson
from seektune.evaluation.evaluate import evaluate, verdict
from seektune.evaluation.multiple_choice import calibrated, option_scores
from seektune.models.load import Loaded, load_model
from seektune.types import Evaluation, Example, Score


def tuned_model() -> Loaded:
    """A tiny model whose adapter does something, as if it had been trained."""
    loaded = attach(load_model("tiny/deepseek_v3"), AdapterSpec(r=4, target_modules=("attention", "routed")))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return loaded


def accuracy(scores: torch.Tensor, examples: Sequence[Example]) -> float:
    right = [int(row.argmax()) == example.answer for row, example in zip(scores, examples, strict=True)]
    return sum(right) / len(right)


def test_every_number_is_what_its_part_says(colours: list[Example]) -> None:
    loaded = tuned_model()
    train, test = colours[:12], colours[12:]
    found = evaluate(
        loaded, train, test, model="tiny", task="colours", router_unchanged=True, cpu_seconds=5.0
    )
    base_scores = option_scores(load_model("tiny/deepseek_v3"), test)
    tuned_scores = option_scores(loaded, test)
    assert not torch.allclose(base_scores, tuned_scores)
    assert found.base.accuracy == accuracy(base_scores, test)
    assert found.base_calibrated.accuracy == accuracy(calibrated(base_scores), test)
    assert found.tuned.accuracy == accuracy(tuned_scores, test)
    assert found.base == wilson(round(found.base.accuracy * 12), 12)
    right = [
        [int(row.argmax()) == example.answer for row, example in zip(scores, test, strict=True)]
        for scores in (base_scores, tuned_scores)
    ]
    assert found.p_value == mcnemar(*right)
    assert (found.majority, found.tfidf) == (pytest.approx(1 / 3), 1.0)
    assert found.trainable_share == inventory(loaded).trainable_share > 0
    assert (found.model, found.task, found.n, found.router_unchanged) == ("tiny", "colours", 12, True)
    assert 5.0 < found.cpu_seconds < 600


def test_evaluating_leaves_the_adapter_active(colours: list[Example]) -> None:
    loaded = tuned_model()
    before = option_scores(loaded, colours[:2])
    evaluate(loaded, colours[:3], colours[:2], model="tiny", task="colours")
    assert torch.equal(option_scores(loaded, colours[:2]), before)


def test_what_cannot_be_evaluated_is_refused(colours: list[Example]) -> None:
    loaded = tuned_model()
    for train, test, said in (
        ([], colours, "no training rows"),
        (colours, [], "no test rows"),
        (colours, [replace(colours[0], options=(), answer=None)], "rows.jsonl:0 has no options"),
        ([replace(colours[0], answer=None)], colours, "rows.jsonl:0 has no options"),
    ):
        with pytest.raises(DataError, match=said):
            evaluate(loaded, train, test, model="tiny", task="colours")
    activate(loaded, None)
    with pytest.raises(AdapterError, match="no adapter is active"):
        evaluate(loaded, colours, colours, model="tiny", task="colours")


def found(tuned: int, base: int, tfidf: float, p_value: float = 0.0001) -> Evaluation:
    return Evaluation(
        model="m", task="t", n=400, base=wilson(base, 400), base_calibrated=wilson(base + 20, 400),
        tuned=wilson(tuned, 400), majority=0.1, tfidf=tfidf, p_value=p_value, trainable_share=0.01,
        router_unchanged=True, cpu_seconds=1.0,
    )  # fmt: skip


def test_the_verdict_says_what_is_better_and_by_how_much() -> None:
    said = verdict(found(tuned=280, base=100, tfidf=0.5))
    assert said == (
        "Tuned: 70.0% of 400 questions right. "
        "Base 25.0%: tuned is better by 45.0 points (paired p < 0.001). "
        "Calibrated base 30.0%: tuned is better by 40.0 points (95 % interval +33.4 to +46.1). "
        "TF-IDF with logistic regression 50.0%: tuned is better by 20.0 points "
        "(95 % interval +13.3 to +26.5)."
    )


@pytest.mark.parametrize(
    ("tfidf", "said", "rank"),
    [
        (0.69, "no difference that these rows can show (+1.0 points)", "as good"),
        (0.8, "tuned is worse by 10.0 points", "better"),
    ],
)
def test_the_verdict_says_plainly_when_word_counts_do_as_well(tfidf: float, said: str, rank: str) -> None:
    sentences = verdict(found(tuned=280, base=100, tfidf=tfidf))
    assert said in sentences
    assert sentences.endswith(f"on word counts is {rank} here, at a fraction of the cost.")


def test_the_verdict_claims_no_gain_over_the_base_that_pairs_do_not_show() -> None:
    said = verdict(found(tuned=104, base=100, tfidf=0.1, p_value=0.4321))
    assert "Base 25.0%: no difference that these rows can show (+1.0 points) (paired p = 0.432)." in said


def test_the_line_of_the_file_has_the_agreed_keys() -> None:
    line = found(tuned=280, base=100, tfidf=0.5).to_json()
    assert line["base"] == {
        "accuracy": 0.25,
        "low": pytest.approx(0.21, abs=0.01),
        "high": pytest.approx(0.295, abs=0.01),
    }
    assert isinstance(found(280, 100, 0.5).tuned, Score)
    assert list(line) == [
        "model", "task", "n", "base", "base_calibrated", "tuned", "majority", "tfidf", "p_value",
        "trainable_share", "router_unchanged", "cpu_seconds",
    ]  # fmt: skip
