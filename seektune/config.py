"""The run's configuration: YAML in, `key=value` overrides, every default in one place."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from seektune.errors import ConfigError

DType = Literal["auto", "float32", "bfloat16", "float16", "float64"]
Scheduler = Literal["linear", "cosine", "constant", "constant_with_warmup"]
S = TypeVar("S", bound="Section")


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values are coerced, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AdapterSpec(Section):
    """What to add to the base, in PEFT's names.

    Groups of targets: attention, dense, shared, routed, vision, aligner; `all-linear` is the first three.
    """

    r: int = Field(16, gt=0)
    lora_alpha: float = Field(32, gt=0)
    target_modules: tuple[str, ...] | str = "all-linear"  # groups, module names, or one regex
    exclude_modules: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
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


class SourceConfig(Section):
    """One data file; its format is detected unless named."""

    path: Path
    format: Literal["auto", "messages", "qa", "classification"] = "auto"


class EvalConfig(Section):
    """Held-out rows: a fraction of the training rows (split by question text) or files of their own."""

    fraction: float | None = Field(None, gt=0, lt=1)
    path: Path | None = None

    @model_validator(mode="after")
    def _one_of(self) -> EvalConfig:
        if self.fraction is not None and self.path is not None:
            raise ValueError("give either fraction or path, not both")
        return self


class DataConfig(Section):
    """Which records, and how they become rows of tokens."""

    train: Annotated[tuple[SourceConfig, ...], BeforeValidator(_listed)] = Field(min_length=1)
    eval: EvalConfig = EvalConfig()
    prompt_prefix: str = ""
    max_length: int = Field(2048, gt=1)  # longer rows are counted and left out, never cut silently
    pack_tokens: int | None = Field(None, gt=1)  # token budget of a row, instead of a number of samples

    @field_validator("train", mode="before")
    @classmethod
    def _paths(cls, value: Any) -> Any:
        return [{"path": item} if isinstance(item, str | Path) else item for item in _listed(value)]


class TrainingConfig(Section):
    """How to train, in the names of HF's TrainingArguments."""

    objective: Literal["sft"] = "sft"
    num_train_epochs: float = Field(3.0, gt=0)
    max_steps: int = -1  # above 0: overrides num_train_epochs
    per_device_train_batch_size: int = Field(8, gt=0)  # samples, as HF counts; they form one ragged row
    gradient_accumulation_steps: int = Field(1, gt=0)
    learning_rate: float = Field(1e-4, gt=0)
    lr_scheduler_type: Scheduler = "linear"
    warmup_steps: int = Field(0, ge=0)  # above 0: overrides warmup_ratio
    warmup_ratio: float = Field(0.0, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    bf16: bool = False  # the base computes in bfloat16; adapters and optimiser stay float32
    fp16: bool = False  # the same in float16, on a GPU only
    gradient_checkpointing: bool = False
    seed: int = 42
    logging_steps: int = Field(10, gt=0)
    save_steps: int = Field(500, gt=0)  # an adapter snapshot in checkpoints/step-N
    eval_steps: int | None = Field(None, gt=0)  # none: once, at the end
    report_to: Literal["none"] = "none"

    @model_validator(mode="after")
    def _one_precision(self) -> TrainingConfig:
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 exclude each other: keep one")
        return self


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
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
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
    for override in overrides:
        _apply(tree, override)
    return validated(RunConfig, tree, str(path))


def validated(section: type[S], tree: dict[str, Any], where: str) -> S:
    """Build `section` from plain values; one ConfigError names everything that is wrong in `where`."""
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(section, dict(problem)) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "\n  ".join(["", *lines]).lstrip("\n ")) from None


def resolved(config: RunConfig) -> dict[str, Any]:
    """The configuration as plain values: absolute paths, every default spelled out."""
    tree = config.model_dump(mode="json")
    tree["output_dir"] = str(config.output_dir.resolve())
    if Path(config.base_model).is_dir():
        tree["base_model"] = str(Path(config.base_model).resolve())
    for source in tree["data"]["train"]:
        source["path"] = str(Path(source["path"]).resolve())
    if config.data.eval.path:
        tree["data"]["eval"]["path"] = str(config.data.eval.path.resolve())
    return tree


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML, itself a valid input."""
    return yaml.safe_dump(resolved(config), sort_keys=False, allow_unicode=True)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} is not key=value, for example training.learning_rate=1e-4")
    *parents, leaf = key.split(".")
    node = tree
    for name in parents:
        if node.get(name) is None:
            node[name] = {}
        node = node[name]
        if not isinstance(node, dict):
            raise ConfigError(f"override {override!r}: {name} is not a section")
    node[leaf] = _parse(value, f"override {override!r}")


def _explain(section: type[Section], problem: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        return f"{place}: {message}" if place else message
    known = _known_keys(section, problem["loc"][:-1])
    near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
    return f"{place}: unknown key; {hint}"


def _known_keys(section: type[Section], path: Sequence[int | str]) -> list[str]:
    for part in path:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for found in map(_section_in, get_args(annotation)) if found), None)
