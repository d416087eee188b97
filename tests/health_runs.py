"""Tiny runs watched by health from outside: iterate `train`, feed `Health`, explain what it finds."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from seektune.adapters.attach import attach
from seektune.config.adapter import AdapterSpec
from seektune.config.training import TrainingConfig
from seektune.data.batches import Batches
from seektune.errors import NonFiniteError
from seektune.models.load import Loaded, load_model
from seektune.training.causes import explained
from seektune.training.finding import Finding
from seektune.training.health import Extras, Health
from seektune.training.loop import train
from seektune.training.probe import Movement, first_non_finite, row_lengths, rows_of
from seektune.training.step import TrainStep
from seektune.types import IGNORE, Batch, Sample, StepMetrics

LABELS = {"heart": "Cardiology", "skin": "Dermatology", "eye": "Ophthalmology"}
TEXT = (
    "the patient was seen in the morning with a mild fever and a dry cough for three days . blood pressure "
    "was normal and the lungs were clear . rest and fluids were advised ; the fever fell on the second day ."
)
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
    """A run and what health said about it."""

    loaded: Loaded
    health: Health
    batches: Batches
    movement: Movement
    steps: list[StepMetrics]
    findings: list[Finding]

    def kinds(self) -> set[str]:
        return {finding.kind for finding in self.findings}

    def observe(self, metrics: StepMetrics) -> None:
        """What a recipe does at each step."""
        self.steps.append(metrics)
        batch = batch_of(self.batches, metrics.step)
        moved = self.movement.after_step(metrics.learning_rate)
        found = self.health.observe(metrics, Extras(row_lengths=row_lengths([batch]), movement=moved))
        for finding in found:
            broken = finding.kind == "non_finite"
            self.findings.append(
                explained(
                    finding,
                    self.health.settings,
                    scored(self.loaded, batch),
                    origin_of(self.loaded, batch) if broken else None,
                )
            )


def batch_of(source: Batches, step: int) -> Batch:
    """The batch of optimiser step `step`, without accumulation."""
    epoch, position = divmod(step - 1, len(source))
    return next(source.epoch(epoch, position))


def scored(loaded: Loaded, batch: Batch) -> Any:
    with torch.no_grad():
        return rows_of([batch], [forward(loaded, batch)[2]])


def origin_of(loaded: Loaded, batch: Batch) -> Any:
    return first_non_finite(loaded.model, lambda one: forward(loaded, one)[0], [batch])


def forward(loaded: Loaded, batch: Batch) -> Any:
    tensors = (batch.input_ids, batch.position_ids, batch.cu_seqlens, batch.targets, batch.weights)
    return TrainStep(loaded)(*tensors)


def start(
    loaded: Loaded, samples: Sequence[Sample], *, batch_size: int = 4, pack_tokens: int | None = None,
    seed: int = 0, shuffle: bool = True, **settings: Any,
) -> Watched:  # fmt: skip
    """Everything `run` needs; settings are TrainingConfig's."""
    config = TrainingConfig(**settings)
    source = Batches(
        samples=tuple(samples), batch_size=batch_size, pack_tokens=pack_tokens, seed=seed, shuffle=shuffle
    )
    return Watched(loaded, Health(settings=config), source, Movement(loaded), [], [])


def run(watched: Watched, steps: int, eval_rows: Sequence[Sample] = (), after: Any = None) -> Watched:
    """Train and watch; `after(step)` is called after each step, to plant faults."""
    settings = watched.health.settings
    held_out = Batches(samples=tuple(eval_rows), batch_size=8, shuffle=False) if eval_rows else None
    keywords = {
        key: getattr(settings, key) for key in ("learning_rate", "lr_scheduler_type", "warmup_ratio", "seed")
    }
    iterator = train(
        watched.loaded, watched.batches, eval_batches=held_out, eval_steps=20, max_steps=steps, **keywords
    )
    try:
        for metrics in iterator:
            watched.observe(metrics)
            if after is not None:
                after(metrics.step)
    except NonFiniteError:
        last = watched.steps[-1] if watched.steps else StepMetrics(0, 0, 0, 0, 0, 0, 0)
        nan = float("nan")
        watched.observe(replace(last, step=last.step + 1, loss=nan, grad_norm=nan, eval_loss=None))
    return watched
