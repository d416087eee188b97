"""A model as its config.json describes it: every module and shape, no weights and no memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

from seektune.models.backends import install
from seektune.models.chat import explained
from seektune.models.checkpoint import read_config
from seektune.models.families import Family, family_of
from seektune.models.fetch import local_folder
from seektune.models.load import Loaded
from seektune.models.tiny import PREFIX, tiny_config

ARCHITECTURES = Path(__file__).with_name("architectures")
"""Well-known models by hub id; each file says where its numbers can be checked."""


@dataclass(frozen=True)
class Architecture:
    """What a model's config.json says."""

    source: str
    config: dict[str, Any]

    @property
    def stored(self) -> str:
        """Dtype of the weights on disk, float32 where none is named; of fp8 ones, what they dequantise to."""
        name = self.config.get("dtype") or self.config.get("torch_dtype") or "float32"
        return str(name).removeprefix("torch.")

    @property
    def quantised(self) -> str | None:
        """The checkpoint's own quantisation, such as fp8; None for plain weights."""
        return (self.config.get("quantization_config") or {}).get("quant_method")


def architecture(source: str | Path) -> Architecture:
    """The architecture of what `load_model` would load, without its weights.

    A folder, or a config.json alone, is read; `tiny/<name>` and the ids in ARCHITECTURES are known here; any
    other id costs a fetch of its small files. Raises ModelError and OfflineError as `load_model` does.
    """
    source = str(source)
    path = Path(source).expanduser()
    if source.startswith(PREFIX):
        return Architecture(source, tiny_config(source.removeprefix(PREFIX)).to_dict())
    if path.name == "config.json" and path.is_file():
        return Architecture(source, read_config(path.parent))
    if not path.is_dir() and (known := shipped().get(source.removeprefix("modelscope:"))):
        return Architecture(source, known)
    return Architecture(source, read_config(local_folder(source, weights=False)))


def shipped() -> dict[str, dict[str, Any]]:
    """The configuration of every hub id this package knows by itself."""
    files = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(ARCHITECTURES.glob("*.json"))]
    return {name: file["config"] for file in files for name in file["ids"]}


def outline(what: Architecture) -> Loaded:
    """The model on torch's meta device: named modules with shapes, but no tensor holds a value.

    Sites, inventories and `chosen_sites` work on it as on a loaded model; nothing can be computed. Raises
    ModelError for an unsupported or contradictory configuration.
    """
    family = family_of(what.config["model_type"])
    settings = {key: value for key, value in what.config.items() if key != "quantization_config"}
    with explained(f"the configuration of {what.source} describes no model"), torch.device("meta"):
        config = AutoConfig.for_model(settings.pop("model_type"), **settings)
        model = _model_class(family).from_config(config, dtype=torch.float32)
    install(model, family)
    return Loaded(model, None, family, identity="", source=what.source)


def _model_class(family: Family) -> Any:
    return AutoModelForImageTextToText if "vision" in family.groups else AutoModelForCausalLM
