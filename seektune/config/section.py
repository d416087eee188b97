"""What every section of the configuration shares: strict keys, coerced values, errors that name the fix."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from seektune.errors import ConfigError

S = TypeVar("S", bound="Section")

# What other programs call ours; too far from it for a near miss.
_MEANT = {
    "alpha": "lora_alpha",
    "batch_size": "per_device_train_batch_size",
    "dropout": "lora_dropout",
    "epochs": "num_train_epochs",
    "lr": "learning_rate",
    "max_seq_length": "max_length",
    "num_epochs": "num_train_epochs",
    "rank": "r",
}


class Section(BaseModel):
    """A part of the configuration: unknown keys are errors, values are coerced, nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def listed(value: Any) -> Any:
    """A list as it is, anything else as the only element of one."""
    return value if isinstance(value, list | tuple) else [value]


def validated(section: type[S], tree: dict[str, Any], where: str) -> S:
    """Build `section` from plain values; one ConfigError names everything that is wrong in `where`."""
    try:
        return section.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(section, dict(problem)) for problem in error.errors()]
        raise ConfigError(f"{where}: " + "\n  ".join(["", *lines]).lstrip("\n ")) from None


def read_yaml(text: str) -> Any:
    """What YAML says. Raises yaml.YAMLError where it is none, or gives a key twice in one mapping."""
    loader = _StrictLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _StrictLoader(yaml.SafeLoader):
    """YAML of plain values; PyYAML's own takes the last of two equal keys without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(f"{key.value} is given twice, in lines {lines[key.value]} and {line}")
            lines[key.value] = line
        return super().construct_mapping(node, deep)


def override(tree: dict[str, Any], text: str) -> None:
    """Set what `section.key=value` names in plain values; the value is YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {text!r} is not key=value, for example training.learning_rate=1e-4")
    *parents, leaf = key.split(".")
    node = tree
    for name in parents:
        if node.get(name) is None:
            node[name] = {}
        node = node[name]
        if not isinstance(node, dict):
            raise ConfigError(f"override {text!r}: {name} is not a section")
    try:
        node[leaf] = read_yaml(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {text!r} is not valid YAML: {error}") from None


def _explain(section: type[Section], problem: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = problem["msg"].removeprefix("Value error, ")
        return f"{place}: {message}" if place else message
    return f"{place}: unknown key; {_hint(section, problem['loc'][:-1], str(problem['loc'][-1]))}"


def _hint(root: type[Section], path: Sequence[int | str], key: str) -> str:
    known, meant = _known_keys(root, path), _MEANT.get(key, key)
    sections = {name: _section_in(field.annotation) for name, field in root.model_fields.items()}
    elsewhere = [name for name, inner in sections.items() if inner and meant in inner.model_fields]
    if meant in known:
        return f"did you mean {meant}?"
    if elsewhere:
        return f"did you mean {elsewhere[0]}.{meant}?"
    near = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"


def _known_keys(section: type[Section], path: Sequence[int | str]) -> list[str]:
    for part in path:
        if isinstance(part, str) and part in section.model_fields:
            section = _section_in(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for found in map(_section_in, get_args(annotation)) if found), None)
