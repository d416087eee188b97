"""Tiny runs and what their health says: rows to learn from, models with an adapter on every group."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seektune.adapters.attach import attach
from seektune.config.adapter import AdapterSpec
from seektune.config.training import TrainingConfig
from seektune.data.batches import Batches
from seektune.errors import TrainingError
from seektune.models.load import Loaded, load_model
from seektune.training.finding import Finding
from seektune.training.loop import train
from seektune.training.step import TrainStep
from seektune.types import IGNORE, Batch, Sample, StepMetrics

LABELS = {"heart": "Cardiology", "skin": "Dermatology", "eye": "Ophthalmology"}
TEXT = (
    "the patient was seen in the morning with a mild fever and a dry cough for three days . blood pressure "
    "was normal and the lungs were clear . rest and fluids were advised ; the fever fell on the second day ."
)
KEYWORDS = ("learning_rate", "lr_scheduler_type", "warmup_ratio", "seed", "health")
RARE = 200  # a token that none of the texts has


def tokens(text: str) -> list[int]:
    """The byte tokenizer's ids."""
    return [3 + byte for byte in text.encode()]


def row(prompt: str, answer: str, name: str) -> Sample:
    """A row whose loss is on the answer and the end."""
    asked, told = [0, *tokens(prompt)], [*tokens(answer), 1]
    ids = asked + told
    return Sample(tuple(ids[:-1]), (*(IGNORE,) * (len(asked) - 1), *told), name)


def rows(kind: str, count: int = 48, seed: int = 0) -> list[Sample]:
    """Labels told by one word, or texts whose lengths are lognormal, as chat data has them."""
    generator = random.Random(seed)
    made = []
    for line in range(1, count + 1):
        name = f"rows.jsonl:{line}"
        if kind == "labels":
            word, label = generator.choice(list(LABELS.items()))
            made.append(row(f"Case {generator.randrange(99)}: the {word} hurts. ", label, name))
        else:
            length = min(120, max(2, round(generator.lognormvariate(2.2, 0.8))))
            words = TEXT.split()
            start = generator.randrange(len(words))
            told = (words[(start + i) % len(words)] for i in range(length))
            made.append(row("Tell: ", " ".join(told), name))
    return made


def adapted(name: str, seed: int = 0, dropout: float = 0.0) -> Loaded:
    """A tiny model with an adapter on every group it has."""
    loaded = load_model(f"tiny/{name}", seed=seed)
    routed = ["routed"] if loaded.family.experts else []
    spec = AdapterSpec(r=8, lora_alpha=16, lora_dropout=dropout, target_modules=["all-linear", *routed])
    return attach(loaded, spec, seed=seed)


@dataclass
class Watched:
    """A run, its steps, and what health said about it."""

    loaded: Loaded
    batches: Batches
    settings: TrainingConfig
    steps: list[StepMetrics]
    findings: list[Finding]
    error: TrainingError | None = None  # that stopped it

    def kinds(self) -> set[str]:
        return {finding.kind for finding in self.findings}


def forward(loaded: Loaded, batch: Batch) -> Any:
    tensors = (batch.input_ids, batch.position_ids, batch.cu_seqlens, batch.targets, batch.weights)
    return TrainStep(loaded)(*tensors)


def start(
    loaded: Loaded, samples: Sequence[Sample], *, batch_size: int = 4, pack_tokens: int | None = None,
    seed: int = 0, shuffle: bool = True, **settings: Any,
) -> Watched:  # fmt: skip
    """Everything `run` needs; settings are TrainingConfig's."""
    source = Batches(
        samples=tuple(samples), batch_size=batch_size, pack_tokens=pack_tokens, seed=seed, shuffle=shuffle
    )
    return Watched(loaded, source, TrainingConfig(**settings), [], [])


def run(watched: Watched, steps: int, eval_rows: Sequence[Sample] = (), after: Any = None) -> Watched:
    """Train for `steps`; `after(step)` is called after each one, to plant faults."""
    held_out = Batches(samples=tuple(eval_rows), batch_size=8, shuffle=False) if eval_rows else None
    keywords = {key: getattr(watched.settings, key) for key in KEYWORDS}
    iterator = train(
        watched.loaded, watched.batches, eval_batches=held_out, eval_steps=20, max_steps=steps, **keywords
    )
    try:
        for metrics in iterator:
            watched.steps.append(metrics)
            watched.findings += [Finding.from_json(finding) for finding in metrics.findings]
            if after is not None:
                after(metrics.step)
    except TrainingError as error:
        watched.error = error
    return watched
