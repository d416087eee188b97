"""A PEFT adapter's configuration and tensors → deltas for a loaded model; all that does not fit, at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seektune.adapters.attach import Delta, new_delta
from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.peft_layout import Targets, matches, parts_of, targets_of, unsupported
from seektune.adapters.wrap import AdaptedLinear
from seektune.config.adapter import AdapterSpec
from seektune.config.section import validated
from seektune.errors import AdapterError, ConfigError
from seektune.models.load import Loaded
from seektune.models.sites import Site, all_sites

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def peft_deltas(
    loaded: Loaded,
    folder: Path,
    config: Mapping[str, Any],
    found: Mapping[str, Tensor],
    spec: AdapterSpec | None = None,
    max_rank: int | None = None,
) -> tuple[AdapterSpec, dict[str, Delta]]:
    """The filled deltas, by site name, that a PEFT adapter describes; and its spec, read where none is given.

    Tensors of 16 to 64 bits become float32. Raises AdapterError listing all that is wrong.
    """
    targets = _read_targets(loaded, folder, config)
    sites = {s.name: s for s in all_sites(loaded.model, loaded.family) if any(_targets_of(s, targets))}
    _refuse_foreign(loaded, folder, targets, sites.values())
    _refuse_old_experts(folder, config, found, sites.values())
    spec = spec or _spec(folder, config, tuple(sites))
    refuse_rank(folder, max(r for r, _ in targets.values()), found, max_rank)
    deltas = {name: _empty(site, spec, targets) for name, site in sites.items()}
    parts = [(part, delta) for name, delta in deltas.items() for part in parts_of(name, delta, targets)]
    shapes = {key: shape for part, _ in parts for key, shape in zip(part.names, part.shapes, strict=True)}
    refuse_differences(folder, shapes, found, _hint(loaded, config, sites.values()))
    with torch.no_grad():
        for part, delta in parts:
            a, b = part.unpack(*(found[key] for key in part.names))
            part.a.copy_(a)
            part.b.copy_(b * (part.scaling / delta.scaling))
    return spec, deltas


def refuse_rank(folder: Path, r: int, found: Mapping[str, Tensor], most: int | None = None) -> None:
    """Refuse a rank that no tensor can have, or above `most`, before memory is taken for it."""
    if most is not None and r > most:
        raise AdapterError(
            f"{folder} has rank {r}, above the largest allowed, {most}: raise serving.max_lora_rank"
        )
    if r > max((size for tensor in found.values() for size in tensor.shape), default=0):
        raise AdapterError(f"{folder}: no tensor is large enough for rank {r}: its configuration is damaged")


def refuse_differences(
    folder: Path, expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Tensor], hint: str = ""
) -> None:
    """One AdapterError for every missing, unknown, misshapen, wrongly typed and non-finite tensor."""
    wrong = [f"missing: {name}" for name in expected if name not in found]
    for name, tensor in found.items():
        if name not in expected:
            wrong.append(f"unknown: {name}")
            continue
        if tuple(tensor.shape) != expected[name]:
            wrong.append(f"shape: {name} is {tuple(tensor.shape)}, not {expected[name]}")
        if tensor.dtype not in _DTYPES:
            wrong.append(f"dtype: {name} is {tensor.dtype}, no float of 16 to 64 bits")
        elif not torch.isfinite(tensor).all():
            wrong.append(f"not finite: {name}")
    if wrong:
        raise AdapterError(f"{folder} does not fit this base:{hint}\n  " + "\n  ".join(wrong))


def linears_of(model: nn.Module) -> list[str]:
    """Names of the model's own linears, adapted or not."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | AdaptedLinear) and not name.endswith(".base_layer")
    ]


def _read_targets(loaded: Loaded, folder: Path, config: Mapping[str, Any]) -> Targets:
    if wrong := unsupported(config):
        raise AdapterError(f"{folder} is no plain LoRA adapter, it has {'; '.join(wrong)}")
    parameters = [
        name.replace(".base_layer.", ".")
        for name, _ in loaded.model.named_parameters()
        if ".deltas." not in name
    ]
    try:
        targets = targets_of(config, linears_of(loaded.model), parameters)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError, re.error) as error:
        raise AdapterError(f"{folder}: adapter_config.json is damaged: {error!r}") from None
    if not targets:
        raise AdapterError(f"{folder}: nothing that adapter_config.json targets exists in this base")
    return targets


def _targets_of(site: Site, targets: Targets) -> list[str]:
    """The site's parameters that are targeted."""
    leaves = ("gate_up_proj", "down_proj") if site.group == "routed" else ("weight",)
    return [f"{site.name}.{leaf}" for leaf in leaves if f"{site.name}.{leaf}" in targets]


def _refuse_foreign(loaded: Loaded, folder: Path, targets: Targets, sites: Iterable[Site]) -> None:
    ours = {target for site in sites for target in _targets_of(site, targets)}
    refused = loaded.family.refused.items()
    lines = []
    for target in targets:
        if target not in ours:
            module = target.rpartition(".")[0]
            reasons = (reason for pattern, reason in refused if re.fullmatch(pattern, module))
            lines.append(f"{target}: {next(reasons, 'no place for an adapter in this family')}")
    if lines:
        raise AdapterError(f"{folder} adapts what must not train here:\n  " + "\n  ".join(lines))


def _refuse_old_experts(
    folder: Path, config: Mapping[str, Any], found: Mapping[str, Tensor], sites: Iterable[Site]
) -> None:
    """Expert tensors of other layouts may have the very shapes of this one: they are told by other signs."""
    if any(re.search(r"\.experts\.\d+\.", name) for name in found):
        raise AdapterError(
            f"{folder} holds one pair per expert, as written before transformers 5 fused the experts: load "
            "it with PEFT 0.21 and save it again"
        )
    written = re.match(r"(\d+)\.(\d+)", str(config.get("peft_version")))
    old = written is None or (int(written[1]), int(written[2])) < (0, 19)
    if old and any(site.group == "routed" for site in sites):
        raise AdapterError(
            f"{folder} was written by PEFT {config.get('peft_version')}; before 0.19 fused experts were "
            "stored transposed, so its tensors are ambiguous: train it again with PEFT 0.19 or later"
        )


def _hint(loaded: Loaded, config: Mapping[str, Any], sites: Iterable[Site]) -> str:
    """Why an adapter on the MLPs of a mixture of experts may not fit."""
    mlps = [site for site in sites if site.group in ("dense", "shared")]
    if not loaded.family.experts or not any(matches(config.get("target_modules"), s.name) for s in mlps):
        return ""
    return (
        " gate_proj, up_proj and down_proj are ambiguous, PEFT up to 0.18 means the dense and shared MLPs by "
        "them, from 0.19 on the routed experts; this is loaded only if it holds exactly the former"
    )


def _spec(folder: Path, config: Mapping[str, Any], sites: tuple[str, ...]) -> AdapterSpec:
    keys = ("r", "lora_alpha", "lora_dropout", "use_rslora")
    tree = {key: config[key] for key in keys if key in config} | {"target_modules": sites}
    try:
        return validated(AdapterSpec, tree, f"{folder}: adapter_config.json")
    except ConfigError as error:
        raise AdapterError(str(error)) from None


def _empty(site: Site, spec: AdapterSpec, targets: Targets) -> Delta:
    """A delta for the site's targets. Two products of experts share the larger rank and one scaling.

    What the file does not fill keeps B = 0, which changes nothing, and a random A, so that it can train.
    """
    wanted = [targets[target] for target in _targets_of(site, targets)]
    delta = new_delta(site.module, max(r for r, _ in wanted), spec)
    delta.scaling = wanted[0][1]
    if isinstance(delta, ExpertsLowRank):
        delta.reset(True, torch.Generator().manual_seed(0))
    return delta
