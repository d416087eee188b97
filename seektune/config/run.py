"""One run's configuration: YAML in, `key=value` overrides; with its sections the only home of defaults."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import model_validator

from seektune.config.adapter import AdapterSpec
from seektune.config.data import DataConfig
from seektune.config.section import Section, override, read_yaml, validated
from seektune.config.training import PER_STAGE, TrainingConfig
from seektune.errors import ConfigError

DType = Literal["auto", "float32", "bfloat16", "float16", "float64"]

FREE = ("training.health.", "training.logging_steps", "training.save_steps", "training.save_total_limit")
"""Keys that may change while a run is under way: the steps so far are the same without them."""


class RunConfig(Section):
    """One run: base model, data, adapter and training."""

    base_model: str
    output_dir: Path
    dtype: DType = "auto"  # auto: the checkpoint's
    dequantize: bool = False  # load an fp8 checkpoint as dequantised weights
    data: DataConfig
    lora: AdapterSpec = AdapterSpec()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _one_dtype(self) -> RunConfig:
        wanted = {"bf16": "bfloat16", "fp16": "float16"}
        for key, dtype in wanted.items():
            if getattr(self.training, key) and self.dtype not in ("auto", dtype):
                raise ValueError(f"dtype: {self.dtype} contradicts training.{key}: true; keep one of them")
        return self

    @property
    def compute_dtype(self) -> DType:
        """The dtype to load the base in: bf16 and fp16 are shorthand for it."""
        if self.training.bf16:
            return "bfloat16"
        return "float16" if self.training.fp16 else self.dtype


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply `section.key=value` overrides and validate.

    Raises ConfigError listing every wrong key and value with its place and the near miss.
    """
    try:
        tree = read_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; `seektune init NAME` writes one to start from"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} must be a mapping of keys to values; `seektune init NAME` writes an example"
        )
    for text in overrides:
        override(tree, text)
    return validated(RunConfig, tree, str(path))


def resolved(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain values: absolute paths, every default spelled out."""
    tree = config.model_dump(mode="json")
    tree["output_dir"] = str(config.output_dir.resolve())
    if Path(config.base_model).is_dir():
        tree["base_model"] = str(Path(config.base_model).resolve())
    if config.training.stages:
        tree["training"] = {key: value for key, value in tree["training"].items() if key not in PER_STAGE}
    data = tree["data"]
    for source in (*data["train"], data["eval"], data["target"] or {}):
        if source.get("path"):
            source["path"] = str(Path(source["path"]).resolve())
    return tree


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML, itself a valid input."""
    return yaml.safe_dump(resolved(config), sort_keys=False, allow_unicode=True)


def changed_keys(before: RunConfig, after: RunConfig) -> list[str]:
    """Lines `key: old → new` for every key in which two configurations are different runs."""
    old, new = leaves(resolved(before)), leaves(resolved(after))
    return [
        f"{key}: {old.get(key)} → {new.get(key)}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key) and not key.startswith(FREE)
    ]


def leaves(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A tree of dictionaries as one, whose keys are the paths: `training.learning_rate`."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: value
        for name, child in tree.items()
        for key, value in leaves(child, f"{prefix}.{name}" if prefix else str(name)).items()
    }
