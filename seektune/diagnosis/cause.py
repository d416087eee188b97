"""What is wrong with a run, most important first, each with the number behind it and the lines to change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Question = Literal["rate", "numbers", "targets", "data", "length", "symptoms"]

QUESTIONS: tuple[Question, ...] = ("rate", "numbers", "targets", "data", "length", "symptoms")
"""In the order in which one brings about the next: a rate breaks numbers, an adapter that did not learn
cannot judge labels, more epochs mend neither, and a spike of the loss follows from any of them."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing to change about a run; `weight` ranks the causes of one question (higher first)."""

    question: Question
    kind: str
    weight: float
    evidence: Mapping[str, Any]  # the numbers by name
    sentence: str
    change: tuple[str, ...] = ()  # YAML lines such as `training.learning_rate: 1e-05`
    rows: tuple[Mapping[str, Any], ...] = field(default=())  # the rows it is about: `row` is file:line

    def to_json(self) -> dict[str, Any]:
        """Plain values for `diagnosis.json`."""
        return asdict(self)


def ranked(causes: Iterable[Cause]) -> tuple[Cause, ...]:
    """By question first, then by weight; of one kind that was found in two ways, the weightier."""
    heaviest: dict[str, Cause] = {}
    for cause in sorted(causes, key=lambda cause: (QUESTIONS.index(cause.question), -cause.weight)):
        heaviest.setdefault(cause.kind, cause)
    return tuple(heaviest.values())
