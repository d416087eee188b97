"""Closed questions, made up and small."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from seektune.types import Example, Message


def closed(question: str, options: Sequence[str], answer: int, row: int = 0) -> Example:
    messages = (Message("user", question), Message("assistant", options[answer]))
    return Example(messages, f"rows.jsonl:{row}", tuple(options), answer)


@pytest.fixture(scope="session")
def colours() -> list[Example]:
    """A task that word counts solve: the label depends on one word of the question."""
    things = {"sky": "blue", "grass": "green", "blood": "red"}
    labels = ("blue", "green", "red")
    rows = [(thing, label, n) for n in range(8) for thing, label in things.items()]
    return [closed(f"colour of {thing} {n}", labels, labels.index(label), n) for thing, label, n in rows]
