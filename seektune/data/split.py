"""Held-out rows that share no question with the training rows."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from seektune.errors import DataError
from seektune.types import Example


def split(examples: Sequence[Example], fraction: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(train, held out): every row of one question on one side, both in their original order.

    Questions are held out in seeded order until `fraction` of the rows is reached; the last one always
    trains. The choice depends on the questions and the seed, not on the order of the rows. Raises DataError
    when there are fewer than two questions.
    """
    keys = [question_of(example) for example in examples]
    order = sorted(set(keys))
    random.Random(seed).shuffle(order)
    sizes = Counter(keys)
    before = accumulate((sizes[key] for key in order), initial=0)  # rows held out ahead of each question
    wanted = max(1, round(len(examples) * fraction))
    held = {key for key, count in zip(order[:-1], before, strict=False) if count < wanted}
    train = [example for example, key in zip(examples, keys, strict=True) if key not in held]
    held_out = [example for example, key in zip(examples, keys, strict=True) if key in held]
    if not held:
        raise DataError(
            f"cannot hold out {fraction:g} of {len(examples)} rows with {len(sizes)} different questions: "
            "it takes two; give more rows, or held-out rows in a file of their own"
        )
    return train, held_out


def question_of(example: Example) -> str:
    """The question's normalised text: user turns without listed options, case, punctuation and spacing."""
    text = "\n".join(message.content for message in example.prompt if message.role == "user")
    for option in example.options:
        text = text.replace(f"\n{option}", "")
    return re.sub(r"[\W_]+", " ", text.casefold()).strip()
