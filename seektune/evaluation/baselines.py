"""What a language model must beat: the commonest answer, and word counts with a linear classifier."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_union

from seektune.types import Example

FOLDS = 3
SETTINGS = tuple(product((False, True), (1.0, 10.0, 100.0)))
"""(character n-grams beside the words?, inverse regularisation C), the plainest first."""


def majority(train: Sequence[Example], test: Sequence[Example]) -> list[bool]:
    """Which test rows the commonest training answer gets right.

    An answer is its text where all rows share their options, else its place among them: the letter.
    """
    by_text = share_options([*train, *test])
    commonest, _ = Counter(_answer(row, by_text) for row in train).most_common(1)[0]
    return [_answer(row, by_text) == commonest for row in test]


def tfidf(train: Sequence[Example], test: Sequence[Example]) -> list[bool]:
    """Which test rows TF-IDF with logistic regression gets right.

    Its setting is chosen by cross-validation on `train`. Where all rows share their options it classifies
    the question. Where each question brings its own, it judges every option by its text and takes the
    likeliest: a linear model adds the question's terms to every option alike, so they could not change its
    choice.
    """
    right = _by_question if share_options([*train, *test]) else _by_option
    return right(train, test, *_best_setting(right, train))


def share_options(examples: Sequence[Example]) -> bool:
    """Whether every row has the same set of options, as a classification has."""
    return len({frozenset(example.options) for example in examples}) == 1


Right = Callable[[Sequence[Example], Sequence[Example], bool, float], list[bool]]


def _best_setting(right: Right, train: Sequence[Example]) -> tuple[bool, float]:
    if len(train) < 2 * FOLDS:
        return SETTINGS[0]
    # Neighbours in the order of answers go to different folds: every fold has its share of each answer.
    ordered = sorted(train, key=lambda row: _answer(row, by_text=True))
    folds = [ordered[fold::FOLDS] for fold in range(FOLDS)]
    rest = [[row for other in folds if other is not fold for row in other] for fold in folds]
    scores = [
        sum(sum(right(*parts, *setting)) for parts in zip(rest, folds, strict=True)) for setting in SETTINGS
    ]
    return SETTINGS[scores.index(max(scores))]


def _by_question(
    train: Sequence[Example], test: Sequence[Example], characters: bool, strength: float
) -> list[bool]:
    labels = [_answer(row, by_text=True) for row in train]
    probabilities = _probabilities(_questions(train), labels, _questions(test), characters, strength)
    guesses = np.array(sorted(set(labels)))[probabilities.argmax(1)]
    return [bool(guess == _answer(row, by_text=True)) for guess, row in zip(guesses, test, strict=True)]


def _by_option(
    train: Sequence[Example], test: Sequence[Example], characters: bool, strength: float
) -> list[bool]:
    known = [option for row in train for option in row.options]
    is_right = [str(index == row.answer) for row in train for index in range(len(row.options))]
    asked = [option for row in test for option in row.options]
    chances = _probabilities(known, is_right, asked, characters, strength)[:, 1]
    ends = np.cumsum([len(row.options) for row in test])[:-1]
    return [int(part.argmax()) == row.answer for part, row in zip(np.split(chances, ends), test, strict=True)]


def _probabilities(
    texts: Sequence[str], labels: Sequence[str], asked: Sequence[str], characters: bool, strength: float
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(len(asked), number of labels), the labels in sorted order."""
    if len(set(labels)) == 1:
        return np.ones((len(asked), 1))
    features = _features(characters)
    # newton-cg: the optimum of lbfgs, on wide sparse features in a tenth of its time.
    model = LogisticRegression(C=strength, solver="newton-cg").fit(features.fit_transform(texts), labels)
    return np.asarray(model.predict_proba(features.transform(asked)))


def _features(characters: bool) -> FeatureUnion:
    # Marks count as words, so that no text is without any.
    pattern = r"\w+|[^\w\s]"
    words = TfidfVectorizer(ngram_range=(1, 2), token_pattern=pattern, sublinear_tf=True, dtype=np.float32)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, dtype=np.float32)
    return make_union(words, letters) if characters else make_union(words)


def _questions(rows: Sequence[Example]) -> list[str]:
    return ["\n".join(turn.content for turn in row.prompt if turn.role == "user") for row in rows]


def _answer(row: Example, by_text: bool) -> str:
    assert row.answer is not None, row.row_id
    return row.options[row.answer] if by_text else str(row.answer)
