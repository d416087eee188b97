"""Adapter folders: PEFT's layout both ways, strict, with what PEFT cannot say in seektune.json beside it.

A chosen subset of experts has no PEFT form short of zero-filling: it is stored compactly, as
`seektune_adapter.safetensors` without `adapter_config.json`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from seektune.adapters.attach import Delta, add_deltas, check_name, deltas_of, planned, spec_of
from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.folder import (
    COMPACT,
    CONFIG,
    FILES,
    MANIFEST,
    WEIGHTS,
    content_hash,
    read_json,
    read_tensors,
    real_folder,
    refuse_costly_patterns,
    signature,
    weights_file,
)
from seektune.adapters.peft_layout import config_of, parts_of
from seektune.adapters.peft_read import linears_of, peft_deltas, refuse_differences, refuse_rank
from seektune.adapters.shards import is_part
from seektune.config.adapter import AdapterSpec
from seektune.config.section import validated
from seektune.errors import AdapterError, ConfigError
from seektune.models.load import Loaded
from seektune.models.sites import all_sites


@dataclass(frozen=True)
class Limits:
    """What an adapter may have at most; None is no limit."""

    max_rank: int | None = None
    max_bytes: int | None = None  # of the weights file
    simple_patterns: bool = False  # refuse regular expressions that may take forever


@dataclass(frozen=True)
class Stored:
    """An adapter as read from its folder, checked against a base and attached to nothing."""

    spec: AdapterSpec
    deltas: Mapping[str, Delta]  # by site name
    content_hash: str


_NO_LIMITS = Limits()


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
    return write_adapter(loaded, spec, deltas, folder)


def write_adapter(loaded: Loaded, spec: AdapterSpec, deltas: Mapping[str, Delta], folder: Path | str) -> Path:
    """`save_adapter` for deltas (site name → whole delta for this base) that need not be attached."""
    folder = Path(folder).resolve()
    _check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        draft = Path(scratch) / "new"
        draft.mkdir()
        if any(isinstance(delta, ExpertsLowRank) and not delta.complete for delta in deltas.values()):
            save_tensors(_compact_tensors(deltas), draft / COMPACT)
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
    stored = read_adapter(loaded, folder, root=root)
    return add_deltas(loaded, stored.spec, stored.deltas, name)


def read_adapter(
    loaded: Loaded, folder: Path | str, *, root: Path | str | None = None, limits: Limits = _NO_LIMITS
) -> Stored:
    """What `load_adapter` attaches, attached to nothing; its errors, and one for whatever exceeds `limits`.

    The model is read only: it may be at work in another thread as long as nothing is attached meanwhile.
    """
    folder = real_folder(Path(folder), root)
    before, weights, manifest = signature(folder), weights_file(folder), _read_manifest(folder)
    if manifest is not None:
        _check_base(loaded, folder, manifest)
    config = read_json(folder / CONFIG) if weights.name == WEIGHTS else None
    if limits.simple_patterns:
        refuse_costly_patterns(folder, _patterns(config or {}, manifest))
    found = read_tensors(weights, limits.max_bytes)
    if config is not None:
        given = None if manifest is None else manifest.spec
        spec, deltas = peft_deltas(loaded, folder, config, found, given, limits.max_rank)
    elif manifest is not None:
        spec = manifest.spec
        deltas = _compact_deltas(loaded, folder, spec, found, limits.max_rank)
    else:
        raise AdapterError(f"{folder} has {COMPACT} but no {MANIFEST}, which says what its tensors are")
    version = content_hash(folder, spec.model_dump(mode="json") if manifest is None else manifest.written)
    if manifest is not None and manifest.content_hash != version:
        raise AdapterError(
            f"{folder} is not as seektune saved it (content hash differs): save it again, or, if PEFT wrote "
            f"over it on purpose, delete {MANIFEST} to load it as a PEFT adapter of an unknown base"
        )
    if signature(folder) != before:
        raise AdapterError(f"{folder} was written to while it was read: load it again when it is complete")
    return Stored(spec, deltas, version)


def _patterns(config: Mapping[str, Any], manifest: _Manifest | None) -> Iterator[str]:
    """Everything in a PEFT configuration or a spec that is used as a regular expression."""
    spec = {} if manifest is None else manifest.written
    for key in ("target_modules", "exclude_modules"):
        yield from (tree[key] for tree in (config, spec) if isinstance(tree.get(key), str))
    for key in ("rank_pattern", "alpha_pattern"):
        yield from config.get(key) or () if isinstance(config.get(key), dict) else ()
    layers = config.get("layers_pattern") or ()
    yield from [layers] if isinstance(layers, str) else map(str, layers)


def _compact_tensors(deltas: Mapping[str, Delta]) -> dict[str, Tensor]:
    """Site name and parameter name → the parameter as it is."""
    return {f"{site}.{key}": p for site, delta in deltas.items() for key, p in delta.named_parameters()}


def _compact_deltas(
    loaded: Loaded, folder: Path, spec: AdapterSpec, found: Mapping[str, Tensor], max_rank: int | None
) -> dict[str, Delta]:
    refuse_rank(folder, spec.r, found, max_rank)
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
    save_tensors(tensors, folder / WEIGHTS)
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
        "content_hash": content_hash(folder, written),
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
    content = read_json(path)
    try:
        base, written = content["base"], content["spec"]
        spec = validated(AdapterSpec, written, f"{path}: spec")
        return _Manifest(base["identity"], base["source"], spec, written, content["content_hash"])
    except (KeyError, TypeError, ConfigError) as error:
        raise AdapterError(f"{path} is damaged ({error}): save the adapter again") from None


def _check_base(loaded: Loaded, folder: Path, manifest: _Manifest) -> None:
    if manifest.identity != loaded.identity:
        raise AdapterError(
            f"{folder} was trained on the base {manifest.source} (identity {manifest.identity[:12]}), but "
            f"the loaded base is {loaded.source} (identity {loaded.identity[:12]}): load that base, or give "
            "an adapter that was trained on this one"
        )


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write an adapter's tensors to disk as a safetensors file; AdapterError when one is not finite."""
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    if broken := [name for name, tensor in ready.items() if not torch.isfinite(tensor).all()]:
        raise AdapterError(f"the adapter is not finite, so it is not saved: {', '.join(broken)}")
    save_file(ready, path, metadata={"format": "pt"})
    _sync(path)


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
        sorted(path.name for path in folder.iterdir() if path.name not in FILES) if folder.exists() else []
    )
    if foreign:
        raise AdapterError(f"{folder} holds other files ({', '.join(foreign)}): choose another folder")
