"""The `lora` section: what to add to the base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from seektune.config.section import Section, listed


class AdapterSpec(Section):
    """What to add to the base, in PEFT's names.

    Groups of targets: attention, dense, shared, routed, vision, aligner; `all-linear` is the first three.
    """

    r: int = Field(16, gt=0)
    lora_alpha: float = Field(32, gt=0)
    target_modules: tuple[str, ...] | str = "all-linear"  # groups, module names, or one regex
    exclude_modules: Annotated[tuple[str, ...], BeforeValidator(listed)] = ()
    experts: dict[int, tuple[int, ...]] | None = (
        None  # chosen routed experts per layer, or a JSON file of them
    )
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    bias: Literal["none"] = "none"  # anything else would break the frozen-base proof
    use_rslora: bool = False
    init_lora_weights: bool | Literal["gaussian"] = True

    @field_validator("target_modules", mode="before")
    @classmethod
    def _at_least_one(cls, value: Any) -> Any:
        if not value:
            raise ValueError("is empty: name a group (attention, dense, shared, routed), modules or a regex")
        return value

    @field_validator("experts", mode="before")
    @classmethod
    def _read_experts(cls, value: Any) -> Any:
        if isinstance(value, str | Path):
            try:
                value = json.loads(Path(value).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise ValueError(f"cannot read the expert selection {value}: {error}") from None
        if isinstance(value, dict) and "experts" in value:
            value = value["experts"]
        return value

    @property
    def scaling(self) -> float:
        """Factor on B·A: α / r, or α / √r with rsLoRA."""
        return self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r)
