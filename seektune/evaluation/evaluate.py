"""Base against tuned on the same closed questions, beside what any model must beat."""

from __future__ import annotations

import time
from collections.abc import Sequence

from torch import Tensor

from seektune.adapters.attach import active_adapter, disabled
from seektune.adapters.inventory import inventory
from seektune.errors import AdapterError, DataError
from seektune.evaluation.baselines import majority, tfidf
from seektune.evaluation.compare import difference, mcnemar, wilson
from seektune.evaluation.multiple_choice import TOKEN_BUDGET, calibrated, option_scores
from seektune.models.load import Loaded
from seektune.types import Evaluation, Example, Score


def evaluate(
    loaded: Loaded,
    train_examples: Sequence[Example],
    test_examples: Sequence[Example],
    *,
    model: str,
    task: str,
    router_unchanged: bool | None = None,
    cpu_seconds: float = 0.0,
    token_budget: int = TOKEN_BUDGET,
) -> Evaluation:
    """Score `test_examples` with the adapter off and on; writes nothing.

    Calibration uses the test questions but no answer of them; the simple baselines learn from
    `train_examples`. `model` and `task` are names for the reader; `router_unchanged` is what the inventory
    found; `cpu_seconds` of training are added to this evaluation's. Raises DataError when either side is
    empty or an example has no options, AdapterError when no adapter is active.
    """
    started = time.process_time()
    for side, rows in (("training", train_examples), ("test", test_examples)):
        _check(side, rows)
    if active_adapter(loaded) is None:
        raise AdapterError("no adapter is active, so base and tuned are the same: attach or activate one")
    with disabled(loaded):
        base_scores = option_scores(loaded, test_examples, token_budget)
    tuned = _right(option_scores(loaded, test_examples, token_budget), test_examples)
    base = _right(base_scores, test_examples)
    return Evaluation(
        model=model,
        task=task,
        n=len(test_examples),
        base=_score(base),
        base_calibrated=_score(_right(calibrated(base_scores), test_examples)),
        tuned=_score(tuned),
        majority=_score(majority(train_examples, test_examples)).accuracy,
        tfidf=_score(tfidf(train_examples, test_examples)).accuracy,
        p_value=mcnemar(base, tuned),
        trainable_share=inventory(loaded).trainable_share,
        router_unchanged=router_unchanged,
        cpu_seconds=cpu_seconds + time.process_time() - started,
    )


def verdict(evaluation: Evaluation) -> str:
    """What the numbers say, in plain sentences.

    Base and tuned are compared in pairs, row by row; calibrated base and TF-IDF by their intervals alone,
    which finds fewer differences.
    """
    tuned, n, p = evaluation.tuned, evaluation.n, evaluation.p_value
    calibrated_base = evaluation.base_calibrated
    linear = wilson(round(evaluation.tfidf * n), n)
    paired = "paired p < 0.001" if p < 0.001 else f"paired p = {p:.3f}"
    sentences = [
        f"Tuned: {tuned.accuracy:.1%} of {n} questions right.",
        _against("Base", evaluation.base, tuned, p < 0.05, paired),
        _against("Calibrated base", calibrated_base, tuned, *_unpaired(tuned, calibrated_base)),
        _against("TF-IDF with logistic regression", linear, tuned, *_unpaired(tuned, linear)),
    ]
    low, high = difference(tuned, linear)
    if low <= 0:
        rank = "better" if high < 0 else "as good"
        sentences.append(f"A linear classifier on word counts is {rank} here, at a fraction of the cost.")
    return " ".join(sentences)


def _against(name: str, other: Score, tuned: Score, differs: bool, evidence: str) -> str:
    points = 100 * (tuned.accuracy - other.accuracy)
    found = f"tuned is {'better' if points > 0 else 'worse'} by {abs(points):.1f} points"
    if not differs:
        found = f"no difference that these rows can show ({points:+.1f} points)"
    return f"{name} {other.accuracy:.1%}: {found} ({evidence})."


def _unpaired(tuned: Score, other: Score) -> tuple[bool, str]:
    low, high = difference(tuned, other)
    return not low <= 0 <= high, f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}"


def _right(scores: Tensor, examples: Sequence[Example]) -> list[bool]:
    """Whether the likeliest option is the right one, row by row; ties go to the first."""
    return [best == example.answer for best, example in zip(scores.argmax(1).tolist(), examples, strict=True)]


def _score(right: Sequence[bool]) -> Score:
    return wilson(sum(right), len(right))


def _check(side: str, examples: Sequence[Example]) -> None:
    if not examples:
        raise DataError(f"there are no {side} rows to evaluate with")
    for example in examples:
        if len(example.options) < 2 or example.answer is None:
            raise DataError(
                f"{example.row_id} has no options to choose from; evaluation needs qa or classification rows"
            )
