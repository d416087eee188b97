"""Held-out rows that share no question with the training rows."""

from __future__ import annotations

import re
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from seektune.errors import DataError
from seektune.types import Example, Row


def question_of(row: Row) -> str:
    """The question's normalised text: user turns without listed options, case, punctuation and spacing."""
    prompt = row.prompt
    text = "\n".join(message.content for message in prompt if message.role == "user")
    if isinstance(row, Example):
        for option in row.options:
            text = text.replace(f"\n{option}", "")
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()


def question_key(row: Row, seed: int) -> int:
    """64 bits that equal questions share; over many questions and seeds they are uniform."""
    text = f"{seed} {question_of(row)}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def held_out(keys: NDArray[np.uint64], fraction: float) -> NDArray[np.bool_]:
    """(N,) which rows are held out, given the `question_key` of each: every row of a question or none.

    Questions are held out in the order of their keys until `fraction` of the rows is reached; the last one
    always trains. So the choice depends on questions and seed, not on the order of the rows. Raises
    DataError when there are fewer than two questions.
    """
    questions, sizes = np.unique(keys, return_counts=True)
    if len(questions) < 2:
        raise DataError(
            f"cannot hold out {fraction:g} of {len(keys)} rows with {len(questions)} different questions: "
            "it takes two; give more rows, or held-out rows in a file of their own"
        )
    before = np.cumsum(sizes) - sizes  # rows held out ahead of each question
    wanted = max(1, round(len(keys) * fraction))
    chosen = questions[:-1][before[:-1] < wanted]
    return np.isin(keys, chosen)
