"""A base model's name → model, tokenizer, family and identity; strict, safetensors only."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    FineGrainedFP8Config,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from seektune.errors import ModelError
from seektune.models.backends import install
from seektune.models.cast import cast
from seektune.models.chat import explained, load_tokenizer
from seektune.models.checkpoint import dequantised_bytes, read_config
from seektune.models.families import Family, family_of
from seektune.models.fetch import local_folder
from seektune.models.identity import checkpoint_identity, model_identity
from seektune.models.tiny import PREFIX, tiny_model

_DTYPES = ("float32", "bfloat16", "float16", "float64")
_log = logging.getLogger(__name__)


@dataclass
class Loaded:
    """A base model ready for adapters, in evaluation mode; `tokenizer` is None where the folder has none."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    family: Family
    identity: str  # models.identity, 64 hex digits
    source: str  # what load_model was asked for

    @property
    def template(self) -> str:
        """Name of the chat template to use when the tokenizer carries none."""
        return self.family.template

    @property
    def device(self) -> torch.device:
        """Where the model's first parameter lies."""
        device: torch.device = next(self.model.parameters()).device
        return device


def load_model(
    source: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    dequantize: bool = False,
    device: torch.device | str | None = None,
    seed: int = 0,
) -> Loaded:
    """Load a base model from a folder, `tiny/<name>`, a hub id `org/name` or `modelscope:org/name`.

    `dtype` auto is the checkpoint's (float32 for tiny models); `dequantize` loads an fp8 checkpoint as plain
    weights; `device` defaults to the GPU if there is one; `seed` is for tiny models. Raises ModelError for
    anything unsupported, incomplete or unsafe, OfflineError when it cannot be fetched.
    """
    source = str(source)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if source.startswith(PREFIX):
        loaded = _load_tiny(source, _dtype(dtype), dequantize, seed)
        loaded.model.to(place)
    else:
        loaded = _load_folder(source, _dtype(dtype), dequantize, place)
    install(loaded.model, loaded.family)
    loaded.model.eval()
    return loaded


def _load_tiny(source: str, dtype: torch.dtype | None, dequantize: bool, seed: int) -> Loaded:
    if dequantize:
        raise ModelError(f"dequantize: true has no effect on {source}, which is not quantised: remove it")
    model, tokenizer = tiny_model(source.removeprefix(PREFIX), seed)
    family = family_of(model.config.model_type)
    identity = model_identity(model)
    if dtype is not None:
        _refuse_float16(family, dtype)
        cast(model, dtype)
    return Loaded(model, tokenizer, family, identity, source)


def _load_folder(source: str, dtype: torch.dtype | None, dequantize: bool, place: torch.device) -> Loaded:
    folder = local_folder(source)
    config = read_config(folder)
    family = family_of(config["model_type"])
    _refuse_float16(family, dtype)
    identity = checkpoint_identity(folder)  # reads every header, so damage is named before anything loads
    options: dict[str, Any] = {"dtype": dtype or "auto"}
    if config.get("quantization_config") or dequantize:
        dtype = dtype or torch.bfloat16
        _check_fp8(folder, config, dequantize, dtype)
        options = {"dtype": dtype, "quantization_config": FineGrainedFP8Config(dequantize=True)}
    if place.type != "cpu":
        options["device_map"] = {"": place}
    model_class = AutoModelForImageTextToText if "vision" in family.groups else AutoModelForCausalLM
    with explained(f"{folder} does not load as {family.model_type}"), bar_in_a_terminal_only():
        model, report = model_class.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # to list them all, as errors
            **options,
        )
    _refuse_differences(folder, report)
    if dequantize:
        cast(model, options["dtype"])  # what was not fp8 came in the dtype it is stored in
    return Loaded(model, load_tokenizer(folder), family, identity, source)


def _dtype(name: str | torch.dtype) -> torch.dtype | None:
    """None stands for the checkpoint's own."""
    if isinstance(name, torch.dtype):
        return name
    if name == "auto":
        return None
    if name not in _DTYPES:
        raise ModelError(f"dtype {name!r} is unknown: use auto, {', '.join(_DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _refuse_float16(family: Family, dtype: torch.dtype | None) -> None:
    if dtype == torch.float16 and not family.float16:
        raise ModelError(f"{family.model_type} does not run in float16 with transformers 5: use bfloat16")


def _check_fp8(folder: Path, config: dict[str, Any], dequantize: bool, dtype: torch.dtype) -> None:
    """Refuse what is not fp8, or was not asked to be dequantised; print the size of what was."""
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method is None:
        raise ModelError(f"dequantize: true has no effect on {folder}, which is not quantised: remove it")
    if method != "fp8":
        raise ModelError(f"{folder} is quantised with {method!r}: load the unquantised checkpoint instead")
    size = f"about {dequantised_bytes(folder, dtype.itemsize) / 1e9:,.1f} GB as {dtype}"
    if not dequantize:
        raise ModelError(
            f"{folder} holds fp8 weights, which cannot be adapted as they are; set `dequantize: true` to "
            f"load them as plain weights, {size}"
        )
    _log.warning("loading %s dequantised: %s", folder, size)


def _refuse_differences(folder: Path, report: dict[str, Any]) -> None:
    """Every tensor the class wants must have come from the checkpoint, and the reverse."""
    found = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if found:
        listed = "; ".join(
            f"{kind.replace('_', ' ')}: {len(names)} ({', '.join(names[:5])})"
            for kind, names in found.items()
        )
        raise ModelError(
            f"{folder} does not fit its architecture: {listed}; its config.json or weights are wrong"
        )


@contextmanager
def bar_in_a_terminal_only() -> Iterator[None]:
    """transformers' loading bar is for eyes: off where standard error is piped."""
    hide = not sys.stderr.isatty() and transformers_logging.is_progress_bar_enabled()
    if hide:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if hide:
            transformers_logging.enable_progress_bar()
