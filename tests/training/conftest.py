"""Toy rows: random bytes with a prompt that carries no loss, ragged lengths, in any grouping."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytest

from seektune.adapters.attach import attach
from seektune.config.adapter import AdapterSpec
from seektune.data.batches import collate
from seektune.models.load import Loaded, load_model
from seektune.types import IGNORE, Batch, Sample


@dataclass(frozen=True)
class Rows:
    """A BatchSource of fixed samples; `group` of them make one batch, every epoch is the same."""

    samples: Sequence[Sample]
    group: int = 1

    def __len__(self) -> int:
        return math.ceil(len(self.samples) / self.group)

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        for first in range(start * self.group, len(self.samples), self.group):
            yield collate(self.samples[first : first + self.group])

    def grouped(self, group: int) -> Rows:
        return Rows(self.samples, group)


def sample(generator: random.Random, name: str, weight: float = 1.0) -> Sample:
    length = generator.randrange(9, 24)
    prompt = generator.randrange(1, length - 1)
    ids = tuple(generator.randrange(3, 259) for _ in range(length + 1))
    targets = (IGNORE,) * prompt + ids[prompt + 1 :]
    return Sample(ids[:-1], targets, name, weight)


@pytest.fixture(scope="session")
def rows() -> Rows:
    generator = random.Random(0)
    return Rows([sample(generator, f"toy.jsonl:{line}") for line in range(1, 9)])


@pytest.fixture
def adapted() -> Callable[..., Loaded]:
    """A fresh tiny model with an adapter; keywords are AdapterSpec's."""

    def build(source: str = "tiny/llama", dtype: str = "float32", **spec: object) -> Loaded:
        loaded = load_model(source, dtype=dtype)
        return attach(loaded, AdapterSpec(**({"r": 4, "lora_alpha": 8} | spec)))

    return build
