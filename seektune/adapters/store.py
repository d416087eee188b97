"""Adapter folders: PEFT's layout both ways, strict, with what PEFT cannot say in seektune.json beside it.

A chosen subset of experts has no PEFT form short of zero-filling: it is stored compactly, as
`seektune_adapter.safetensors` without `adapter_config.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from seektune.adapters.attach import Delta, add_deltas, check_name, deltas_of, planned, spec_of
from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.peft_layout import config_of, parts_of
from seektune.adapters.peft_read import linears_of, peft_deltas, refuse_differences, refuse_rank
from seektune.adapters.shards import is_part
from seektune.config.adapter import AdapterSpec
from seektune.config.section import validated
from seektune.errors import AdapterError, ConfigError
from seektune.models.load import Loaded
from seektune.models.sites import all_sites

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
COMPACT, MANIFEST = "seektune_adapter.safetensors", "seektune.json"
_FILES = {CONFIG, WEIGHTS, COMPACT, MANIFEST}
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}


def save_adapter(loaded: Loaded, folder: Path | str, *, name: str = "default") -> Path:
    """Write the adapter `name` as a folder that `load_adapter`, and PEFT where it can, read; returns it.

    An existing adapter folder is replaced as a whole; a folder that holds anything else is refused. The
    folder appears complete or not at all.
    """
    spec, deltas = spec_of(loaded, name), deltas_of(loaded, name)
    if any(is_part(tensor) for delta in deltas.values() for tensor in delta.parameters()):
        raise AdapterError(
            "this process holds only a part of the adapter: enter adapters.shards.whole_adapter(loaded) in "
            "every process, and save in one of them within it"
        )
    folder = Path(folder).resolve()
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        draft = Path(scratch) / "new"
        draft.mkdir()
        if any(isinstance(delta, ExpertsLowRank) and not delta.complete for delta in deltas.values()):
            _save_tensors(_compact_tensors(deltas), draft / COMPACT)
        else:
            _write_peft(loaded, spec, deltas, draft)
        _write_json(_manifest(loaded, spec, draft), draft / MANIFEST)
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        draft.rename(folder)
    return folder


def load_adapter(
    loaded: Loaded, folder: Path | str, *, name: str = "default", root: Path | str | None = None
) -> Loaded:
    """Attach the adapter stored in `folder` under `name` and make it active; returns `loaded`.

    Reads what `save_adapter` and PEFT write; with `root`, only from folders inside it. Raises one
    AdapterError that lists every wrong, missing or unknown name, shape, dtype and non-finite tensor; one
    that names both identities when the adapter was trained on another base.
    """
    check_name(loaded, name)
    folder = _inside(Path(folder), root)
    weights = _weights_file(folder)
    manifest = _read_manifest(folder)
    if manifest is not None:
        _check_base(loaded, folder, manifest)
    found = _read_tensors(weights)
    if weights.name == WEIGHTS:
        given = None if manifest is None else manifest.spec
        spec, deltas = peft_deltas(loaded, folder, _read_json(folder / CONFIG), found, given)
    elif manifest is not None:
        spec, deltas = manifest.spec, _compact_deltas(loaded, folder, manifest.spec, found)
    else:
        raise AdapterError(f"{folder} has {COMPACT} but no {MANIFEST}, which says what its tensors are")
    if manifest is not None and manifest.content_hash != _content_hash(folder, manifest.written):
        raise AdapterError(
            f"{folder} is not as seektune saved it (content hash differs): save it again, or, if PEFT wrote "
            f"over it on purpose, delete {MANIFEST} to load it as a PEFT adapter of an unknown base"
        )
    return add_deltas(loaded, spec, deltas, name)


def _compact_tensors(deltas: Mapping[str, Delta]) -> dict[str, Tensor]:
    """Site name and parameter name → the parameter as it is."""
    return {f"{site}.{key}": p for site, delta in deltas.items() for key, p in delta.named_parameters()}


def _compact_deltas(
    loaded: Loaded, folder: Path, spec: AdapterSpec, found: Mapping[str, Tensor]
) -> dict[str, Delta]:
    refuse_rank(folder, spec.r, found)
    deltas = planned(loaded, spec)
    tensors = _compact_tensors(deltas)
    refuse_differences(folder, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, found)
    with torch.no_grad():
        for key, tensor in tensors.items():
            tensor.copy_(found[key])
    return deltas


def _write_peft(loaded: Loaded, spec: AdapterSpec, deltas: Mapping[str, Delta], folder: Path) -> None:
    parts = [part for site, delta in deltas.items() for part in parts_of(site, delta)]
    renamed = {"dense", "shared"} if loaded.family.experts else set()
    as_parameters = {s.name for s in all_sites(loaded.model, loaded.family) if s.group in renamed}
    config = config_of(spec, parts, linears_of(loaded.model), as_parameters, loaded.source)
    tensors = {key: t for part in parts for key, t in zip(part.names, part.pack(), strict=True)}
    _save_tensors(tensors, folder / WEIGHTS)
    _write_json(config, folder / CONFIG)


def _manifest(loaded: Loaded, spec: AdapterSpec, folder: Path) -> dict[str, Any]:
    packages = ("seektune", "torch", "transformers")
    written = spec.model_dump(mode="json")
    return {
        "base": {
            "identity": loaded.identity,
            "source": loaded.source,
            "model_type": loaded.family.model_type,
        },
        "versions": {package: version(package) for package in packages},
        "spec": written,
        "content_hash": _content_hash(folder, written),
    }


@dataclass(frozen=True)
class _Manifest:
    """What is read of seektune.json."""

    identity: str
    source: str
    spec: AdapterSpec
    written: Mapping[str, Any]  # the spec as it stands in the file
    content_hash: str


def _read_manifest(folder: Path) -> _Manifest | None:
    path = folder / MANIFEST
    if not path.exists():
        return None
    content = _read_json(path)
    try:
        base, written = content["base"], content["spec"]
        spec = validated(AdapterSpec, written, f"{path}: spec")
        return _Manifest(base["identity"], base["source"], spec, written, content["content_hash"])
    except (KeyError, TypeError, ConfigError) as error:
        raise AdapterError(f"{path} is damaged ({error}): save the adapter again") from None


def _check_base(loaded: Loaded, folder: Path, manifest: _Manifest) -> None:
    if manifest.identity != loaded.identity:
        raise AdapterError(
            f"{folder} was trained on the base {manifest.source} (identity {manifest.identity}), but the "
            f"loaded base is {loaded.source} (identity {loaded.identity}): load the first one, "
            f"load_model({manifest.source!r})"
        )


def _content_hash(folder: Path, spec: Mapping[str, Any]) -> str:
    """sha256 over weights, PEFT's configuration and spec: it names a version of the adapter."""
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
    for name in (CONFIG, WEIGHTS, COMPACT):
        if (folder / name).exists():
            with (folder / name).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _inside(folder: Path, root: Path | str | None) -> Path:
    """The real folder; AdapterError when it, or a file in it, leads outside `root`."""
    resolved = folder.resolve()
    if not resolved.is_dir():
        raise AdapterError(f"{folder} is not a folder; an adapter is the folder that save_adapter wrote")
    if root is not None:
        for path in (resolved, *((resolved / name).resolve() for name in _FILES)):
            if not path.is_relative_to(Path(root).resolve()):
                raise AdapterError(f"{folder} leads outside {root}, where adapters may be loaded from")
    return resolved


def _weights_file(folder: Path) -> Path:
    present = [name for name in (WEIGHTS, COMPACT) if (folder / name).is_file()]
    if len(present) == 1:
        return folder / present[0]
    if present:
        raise AdapterError(f"{folder} holds both {WEIGHTS} and {COMPACT}: remove the one that is stale")
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise AdapterError(
            f"{folder} holds {pickles[0]}, a pickle, which can run any code when it is read: convert it to "
            f"{WEIGHTS} where you trust it"
        )
    raise AdapterError(f"{folder} has no {WEIGHTS} and no {COMPACT}: it is no adapter folder")


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise AdapterError(
            f"{path} is truncated or no safetensors file ({error}): copy or save the adapter again"
        ) from None
    return tensors


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if broken := [name for name, tensor in ready.items() if not torch.isfinite(tensor).all()]:
        raise AdapterError(f"the adapter is not finite, so it is not saved: {', '.join(broken)}")
    save_file(ready, path, metadata={"format": "pt"})
    _sync(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"cannot read {path}: {error}") from None
    if not isinstance(content, dict):
        raise AdapterError(f"{path} must hold an object of keys and values")
    return content


def _write_json(content: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _check_replaceable(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise AdapterError(f"{folder} is a file: choose a folder for the adapter")
    foreign = (
        sorted(path.name for path in folder.iterdir() if path.name not in _FILES) if folder.exists() else []
    )
    if foreign:
        raise AdapterError(f"{folder} holds other files ({', '.join(foreign)}): choose another folder")
