"""A model of Triton's: the tensors it takes and gives, and what the parameters of its config.pbtxt set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from seektune.config.engine import EngineConfig
from seektune.config.run import DType
from seektune.config.section import Section, validated
from seektune.config.serving import ServingConfig
from seektune.errors import ConfigError

INPUTS: Mapping[str, str] = {
    "text_input": "TYPE_STRING",  # a text to continue
    "messages": "TYPE_STRING",  # or a conversation to answer, as JSON
    "sampling_parameters": "TYPE_STRING",  # JSON: what a request's own parameters cannot hold
}
"""Inputs by name, each a single text and optional; vLLM's backend for Triton has the same names."""

OUTPUTS: Mapping[str, tuple[str, int]] = {
    "text_output": ("TYPE_STRING", 1),  # new text
    "token_ids": ("TYPE_INT32", -1),  # new tokens
    "model": ("TYPE_STRING", 1),  # who answers, with the version
    "finish_reason": ("TYPE_STRING", 1),  # in the last response
    "usage": ("TYPE_STRING", 1),  # in the last response, as JSON
    "control_output": ("TYPE_STRING", 1),  # the answer to a control request, as JSON
}
"""Outputs by name: type and length."""

_HTTP_ONLY = (
    "host",
    "port",
    "cors_origins",
    "max_body_bytes",
    "max_choices",
    "max_connections",
    "header_timeout",
    "body_timeout",
)


def _names(value: Any) -> Any:
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


class TritonConfig(Section):
    """What a model is started with."""

    base_model: str
    dtype: DType = "auto"
    dequantize: bool = False
    adapters: Annotated[tuple[str, ...], BeforeValidator(_names)] = ()  # loaded at the start, a, b
    administer: bool = False  # requests may load, unload and alias adapters; Triton asks nobody who he is
    serving: ServingConfig = ServingConfig()
    engine: EngineConfig = EngineConfig()

    @model_validator(mode="after")
    def _triton_listens(self) -> TritonConfig:
        unused = [name for name in _HTTP_ONLY if name in self.serving.model_fields_set]
        if unused:
            raise ValueError(f"serving.{unused[0]} is the HTTP server's: Triton has settings of its own")
        return self


class TritonExport(TritonConfig):
    """What is written for Triton, besides: the model's name there and where it runs."""

    name: str = Field("", pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$")  # none: the last part of the base's
    kind: Literal["cpu", "gpu"] = "cpu"


def triton_config(parameters: Mapping[str, str]) -> TritonConfig:
    """Parameters as config.pbtxt has them (`engine.max_num_seqs` is a key), those of Triton's own left out.

    Raises ConfigError naming what is unknown, wrong or the HTTP server's.
    """
    own = {key: value for key, value in parameters.items() if not key.isupper()}
    return validated(TritonConfig, _tree(own), "parameters of config.pbtxt")


def triton_export(given: Mapping[str, Any], settings: Sequence[str]) -> TritonExport:
    """`given` values, then `key=value` settings over them. Raises ConfigError as `triton_config` does."""
    pairs = [text.partition("=") for text in settings]
    if wrong := [key for key, equals, _ in pairs if not equals]:
        raise ConfigError(f"--set {wrong[0]!r} is not key=value, for example kind=gpu")
    return validated(TritonExport, _tree(dict(given) | {key: value for key, _, value in pairs}), "--set")


def parameters_of(config: TritonConfig) -> dict[str, str]:
    """What `triton_config` reads; only what differs from a default."""
    tree = config.model_dump(mode="json", exclude_unset=True, exclude={"name", "kind"})
    found: dict[str, str] = {}
    for key, value in tree.items():
        leaves = (
            {f"{key}.{leaf}": v for leaf, v in value.items()} if isinstance(value, dict) else {key: value}
        )
        found |= {name: _text(leaf) for name, leaf in leaves.items()}
    return found


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _tree(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys → sections."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        section, _, leaf = key.rpartition(".")
        if section:
            tree.setdefault(section, {})[leaf] = value
        else:
            tree[leaf] = value
    return tree
