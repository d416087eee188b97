"""The `data` section: which records, what is kept of them, and how they become rows of tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from seektune.config.section import Section, listed

Format = Literal[
    "auto",
    "alpaca",
    "sharegpt",
    "messages",
    "preference",
    "kto",
    "qa",
    "medmcqa",
    "pubmedqa",
    "cmexam",
    "classification",
    "reasoning",
    "text",
    "document",
]
Negative = Literal["options", "in_batch", "mined", "corrupted"]


class _Source(Section):
    path: str | None = None  # a file, folder or glob; of a dataset_info.json, `dataset` names the entry
    hub: str | None = None  # id of a dataset on the Hugging Face hub, instead of a path
    split: str = "train"  # of the hub's dataset
    subset: str | None = None  # of the hub's dataset
    dataset: str | None = None  # entry of a LLaMA-Factory dataset_info.json
    format: Format = "auto"
    columns: dict[str, str] = Field({})  # name of our field → the file's column
    tags: dict[str, str] = Field({})  # role_tag, content_tag, user_tag, … as LLaMA-Factory names them
    encoding: str | None = None  # none: detected

    @field_validator("path", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value


class SourceConfig(_Source):
    """Records of one kind: a path or a dataset of the hub; their format is detected unless named."""

    @model_validator(mode="after")
    def _one_of(self) -> SourceConfig:
        if (self.path is None) == (self.hub is None):
            raise ValueError("give either path or hub")
        return self


class EvalConfig(_Source):
    """Held-out rows: a fraction of the training rows (split by question text) or a source of their own."""

    fraction: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _one_of(self) -> EvalConfig:
        if sum(value is not None for value in (self.fraction, self.path, self.hub)) > 1:
            raise ValueError("give one of fraction, path and hub")
        return self

    @property
    def source(self) -> SourceConfig | None:
        """Where the held-out rows are, if they have a source of their own."""
        if self.path is None and self.hub is None:
            return None
        return SourceConfig(**self.model_dump(exclude={"fraction"}))


class CleaningConfig(Section):
    """Filters by name; those on by default repair text and never touch punctuation, units or formulas."""

    control_characters: bool = True
    whitespace: bool = True
    mojibake: bool = True  # only where certain
    html: bool = False  # p<0.05 is not a tag
    boilerplate: bool = False
    repetition: bool = False
    punctuation: bool = False  # strips all of it: destroys units, decimals and formulas
    languages: tuple[str, ...] = ()  # keep only these, e.g. [zh, en]
    min_chars: int = Field(0, ge=0)
    max_chars: int | None = Field(None, gt=0)
    pii: Literal["keep", "mask", "drop"] = "keep"


class DedupConfig(Section):
    """What counts as the same row, and what becomes of it."""

    exact: bool = True
    near: bool = True
    similarity: float = Field(0.87, gt=0.5, le=1)  # of two normalised texts, 1 − edits / length
    leakage: Literal["drop", "report"] = "drop"  # training rows that stand in the held-out rows


class NegativesConfig(Section):
    """Rejected answers to make from the rows, for preference training."""

    kinds: tuple[Negative, ...] = Field(("options",), min_length=1)
    per_row: int = Field(1, gt=0)


class DataConfig(Section):
    """Which records, and how they become rows of tokens."""

    train: Annotated[tuple[SourceConfig, ...], BeforeValidator(listed)] = Field(min_length=1)
    eval: EvalConfig = EvalConfig()
    prompt_prefix: str = ""
    system_prompt: str = ""  # for rows that have none
    labels: tuple[str, ...] = ()  # of a classification, in order; none: those that occur
    train_turns: Literal["all", "last"] = "all"  # which assistant turns of a conversation are learned
    max_length: int = Field(2048, gt=1)
    too_long: Literal["drop", "cut_left", "cut_right", "cut_middle", "split"] = "drop"
    pack_tokens: int | None = Field(None, gt=1)  # token budget of a row, instead of a number of samples
    max_bad_fraction: float = Field(0.01, ge=0, le=1)  # more unusable records (and at least 10) stop the run
    cleaning: CleaningConfig = CleaningConfig()
    dedup: DedupConfig = DedupConfig()
    negatives: NegativesConfig | None = None
    target: SourceConfig | None = None  # a sample of what users will ask, to compare the training rows with

    @field_validator("train", mode="before")
    @classmethod
    def _paths(cls, value: Any) -> Any:
        return [{"path": item} if isinstance(item, str | Path) else item for item in listed(value)]

    @field_validator("target", mode="before")
    @classmethod
    def _path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str | Path) else value
