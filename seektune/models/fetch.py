"""A model's name → a local folder; only an explicit hub id or `modelscope:id` ever touches the network."""

from __future__ import annotations

import importlib
import os
import re
from pathlib import Path

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from seektune.errors import ModelError, OfflineError
from seektune.models.checkpoint import read_config
from seektune.models.families import family_of

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_MODELSCOPE = "modelscope:"
_SMALL = ["*.json", "*.jinja", "*.model", "merges.txt"]  # configuration and tokenizer
_WEIGHTS = ["*.safetensors"]


def hub_cache() -> Path:
    """Where the models of a hub are kept on this machine; HF_HOME and HF_HUB_CACHE move it."""
    return Path(constants.HF_HUB_CACHE)


def local_folder(source: str, *, weights: bool = True) -> Path:
    """The folder of a checkpoint: a path as it is, `org/name` through the hub, `modelscope:org/name`.

    Without `weights` only configuration and tokenizer are fetched.

    Raises ModelError for what cannot be a model's name, OfflineError when it cannot be fetched.
    """
    folder = Path(source).expanduser()
    if source and folder.is_dir():
        return folder
    if source.startswith(_MODELSCOPE):
        return _from_modelscope(source.removeprefix(_MODELSCOPE), weights)
    if not _HUB_ID.fullmatch(source) or source.startswith("."):
        raise ModelError(
            f"there is no folder {source}; base_model is a folder, tiny/<name>, a hub id org/name "
            "or modelscope:org/name"
        )
    return _from_hub(source, weights)


def _from_hub(name: str, weights: bool) -> Path:
    try:
        # The configuration first: an unsupported model is refused before its weights are fetched.
        folder = Path(snapshot_download(name, allow_patterns=_SMALL))
        family_of(read_config(folder)["model_type"])
        return Path(snapshot_download(name, allow_patterns=_SMALL + _WEIGHTS)) if weights else folder
    except RepositoryNotFoundError:  # gated models included
        raise ModelError(
            f"{name} is neither a folder here nor an open model on {constants.ENDPOINT}"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, ConnectionError) as error:
        raise _offline(name, constants.ENDPOINT) from error


def lasting_name(source: str) -> str:
    """What names the same model from anywhere: a folder by its whole path, other names as they are."""
    folder = Path(source).expanduser()
    return str(folder.resolve()) if folder.is_dir() else source


def _from_modelscope(name: str, weights: bool) -> Path:
    try:
        modelscope = importlib.import_module("modelscope")
    except ImportError:
        raise ModelError(f"{_MODELSCOPE}{name} needs the ModelScope client: pip install modelscope") from None
    try:
        wanted = _SMALL + _WEIGHTS if weights else _SMALL
        return Path(modelscope.snapshot_download(name, allow_patterns=wanted))
    except (OSError, ValueError) as error:
        raise _offline(name, "ModelScope") from error


def _offline(name: str, place: str) -> OfflineError:
    switch = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
    return OfflineError(
        f"{name} is no folder here, and seektune cannot fetch {name} from {place}{switch}; use a local "
        "folder, tiny/<name>, another endpoint through HF_ENDPOINT (such as https://hf-mirror.com), or "
        f"{_MODELSCOPE}{name}"
    )
