"""One stage of progressive training, as data."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from seektune.config.section import Section


class StageConfig(Section):
    """Which part of the adapter trains next, how fast and how long.

    `layers` are fractions of the depth, from the first layer (0) to behind the last (1); both ends are
    rounded to whole layers, halves up: stages that meet leave no layer out and share none. `target_modules`
    are names as in `lora.target_modules`, by default all that the adapter has.
    """

    layers: tuple[float, float] = (0.0, 1.0)
    target_modules: tuple[str, ...] | str | None = None
    learning_rate: float = Field(gt=0)
    num_train_epochs: float | None = Field(None, gt=0)  # a part of a step is rounded up
    max_steps: int | None = Field(None, gt=0)  # instead of num_train_epochs

    @field_validator("layers")
    @classmethod
    def _ascending(cls, layers: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= layers[0] < layers[1] <= 1:
            raise ValueError(f"{list(layers)} is no part of the depth: write [from, to], 0 <= from < to <= 1")
        return layers

    @field_validator("target_modules", mode="before")
    @classmethod
    def _at_least_one(cls, value: Any) -> Any:
        if value is not None and not value:
            raise ValueError("is empty: name groups or modules, or leave it out to train all of the adapter")
        return value

    @model_validator(mode="after")
    def _one_length(self) -> StageConfig:
        if (self.num_train_epochs is None) == (self.max_steps is None):
            raise ValueError("a stage takes either num_train_epochs or max_steps, exactly one of them")
        return self
