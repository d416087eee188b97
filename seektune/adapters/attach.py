"""Put a named adapter on a loaded model, switch between several, and take them off again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.fused import fuse, unfuse
from seektune.adapters.lowrank import LowRank
from seektune.adapters.wrap import AdaptedExperts, AdaptedLinear, Experts
from seektune.config.adapter import AdapterSpec
from seektune.errors import AdapterError, TargetError
from seektune.models.load import Loaded
from seektune.models.sites import Site, find_sites

Delta = LowRank | ExpertsLowRank
Wrapper = AdaptedLinear | AdaptedExperts


@dataclass
class Attachment:
    """What the adapters keep on the model, as its attribute `attachment`."""

    specs: dict[str, AdapterSpec]
    was_trainable: list[nn.Parameter]  # of the base; the last detach restores them


def attach(loaded: Loaded, spec: AdapterSpec, *, name: str = "default", seed: int = 0) -> Loaded:
    """Freeze the base, add the adapter `spec` describes under `name` and make it the active one.

    A new adapter changes no output (B = 0). Returns `loaded`. Raises TargetError for targets, layers or
    experts that do not exist and AdapterError for a name that is taken or unusable.
    """
    check_name(loaded, name)
    deltas = planned(loaded, spec)
    generator = torch.Generator().manual_seed(seed)
    for delta in deltas.values():
        delta.reset(spec.init_lora_weights, generator)
    return add_deltas(loaded, spec, deltas, name)


def detach(loaded: Loaded, name: str | None = None) -> Loaded:
    """Remove the adapter `name`, or all; with the last one gone the very same base modules are in place."""
    attachment = _attachment(loaded)
    gone = list(attachment.specs) if name is None else [_known(loaded, name)]
    for site, wrapper in wrappers_of(loaded.model).items():
        for delta in set(gone) & set(wrapper.deltas):
            del wrapper.deltas[delta]
        if wrapper.active in gone:
            wrapper.active = None
        if not wrapper.deltas and wrapper.resident is None:
            unwrap(loaded.model, site, wrapper)
    for adapter in gone:
        del attachment.specs[adapter]
    if not attachment.specs:
        unfuse(loaded.model)
        for parameter in attachment.was_trainable:
            parameter.requires_grad_(True)
        del loaded.model.attachment
    return loaded


def activate(loaded: Loaded, name: str | None) -> None:
    """Use and train the adapter `name` from now on; None leaves the base alone at work."""
    if name is not None:
        _known(loaded, name)
    for wrapper in wrappers_of(loaded.model).values():
        wrapper.active = name if name is not None and name in wrapper.deltas else None
        for delta_name, delta in wrapper.deltas.items():
            delta.requires_grad_(delta_name == name)


@contextmanager
def disabled(loaded: Loaded) -> Iterator[None]:
    """The base's own outputs within the block; the active adapter is active again after it."""
    with at_work(list(wrappers_of(loaded.model).values()), None):
        yield


@contextmanager
def at_work(wrappers: Sequence[Wrapper], name: str | None) -> Iterator[None]:
    """The adapter `name` computes within the block, None the base alone; what trains is not touched."""
    before = [wrapper.active for wrapper in wrappers]
    for wrapper in wrappers:
        wrapper.active = name if name is not None and name in wrapper.deltas else None
    try:
        yield
    finally:
        for wrapper, active in zip(wrappers, before, strict=True):
            wrapper.active = active


def adapters(loaded: Loaded) -> tuple[str, ...]:
    """Names of the attached adapters, oldest first."""
    return tuple(_attachment(loaded).specs) if hasattr(loaded.model, "attachment") else ()


def active_adapter(loaded: Loaded) -> str | None:
    """Name of the adapter at work, None where the base works alone."""
    return next((w.active for w in wrappers_of(loaded.model).values() if w.active is not None), None)


def spec_of(loaded: Loaded, name: str = "default") -> AdapterSpec:
    """The spec that the adapter `name` was made from."""
    return _attachment(loaded).specs[_known(loaded, name)]


def wrappers_of(model: nn.Module) -> dict[str, Wrapper]:
    """The adapted modules by the name of the base module they adapt, in the model's order."""
    return {
        name.removesuffix(".adapter"): module
        for name, module in model.named_modules()
        if isinstance(module, AdaptedLinear | AdaptedExperts)
    }


def deltas_of(loaded: Loaded, name: str) -> dict[str, Delta]:
    """The deltas of one adapter by site name, in the model's order."""
    wrappers = wrappers_of(loaded.model).items()
    return {site: cast(Delta, wrapper.deltas[name]) for site, wrapper in wrappers if name in wrapper.deltas}


def chosen_sites(loaded: Loaded, spec: AdapterSpec) -> list[tuple[Site, Sequence[int] | None]]:
    """The sites `spec` asks for and, for routed ones, the experts (None = all); unlisted layers are left out.

    Raises TargetError listing every layer and expert that does not exist.
    """
    sites = find_sites(loaded.model, loaded.family, spec.target_modules, spec.exclude_modules)
    if spec.experts is None:
        return [(site, None) for site in sites]
    routed = {s.layer: s for s in sites if s.group == "routed" and s.layer is not None}
    if not routed:
        raise TargetError("experts are chosen but target_modules has no routed experts: add `routed` to it")
    wrong = []
    for layer, experts in spec.experts.items():
        count = _experts_shape(routed[layer].module)[0] if layer in routed else 0
        if not count:
            wrong.append(f"layer {layer} has none; layers with targeted experts: {sorted(routed)}")
        elif outside := [expert for expert in experts if not 0 <= expert < count]:
            wrong.append(f"layer {layer} has experts 0 to {count - 1}, not {outside}")
    if wrong:
        raise TargetError("experts: " + "; ".join(wrong))
    if not any(spec.experts.values()):
        raise TargetError("experts chooses no expert in any layer: drop `routed` from target_modules instead")
    chosen = {routed[layer].name: sorted(set(experts)) for layer, experts in spec.experts.items() if experts}
    return [(s, chosen.get(s.name)) for s in sites if s.group != "routed" or s.name in chosen]


def planned(loaded: Loaded, spec: AdapterSpec) -> dict[str, Delta]:
    """Zero deltas for what `spec` asks for, by site name; nothing is changed yet."""
    chosen = chosen_sites(loaded, spec)
    return {site.name: new_delta(site.module, spec.r, spec, experts) for site, experts in chosen}


def new_delta(module: nn.Module, r: int, spec: AdapterSpec, experts: Sequence[int] | None = None) -> Delta:
    """A zero delta for a base module, on its device and in its mode (training or evaluation)."""
    if isinstance(module, nn.Linear | AdaptedLinear):
        delta: Delta = LowRank(module.in_features, module.out_features, r, spec.scaling, spec.lora_dropout)
    else:
        count, hidden, width = _experts_shape(module)
        delta = ExpertsLowRank((count, hidden, width), r, spec.scaling, spec.lora_dropout, experts)
    return delta.to(next(module.parameters()).device).train(module.training)


def add_deltas(loaded: Loaded, spec: AdapterSpec, deltas: Mapping[str, Delta], name: str) -> Loaded:
    """Put ready deltas (site name → delta) in place under `name`, freeze everything else, activate."""
    model = loaded.model
    if not hasattr(model, "attachment"):
        model.attachment = Attachment({}, [p for p in model.parameters() if p.requires_grad])
        model.requires_grad_(False)
    for site, delta in deltas.items():
        wrapper = wrap(model, site)
        wrapper.deltas[name] = delta
    model.attachment.specs[name] = spec
    activate(loaded, name)
    fuse(model)
    return loaded


def check_name(loaded: Loaded, name: str) -> None:
    """Refuse an adapter name that is taken or cannot name a module."""
    if not re.fullmatch(r"[A-Za-z0-9_@+-]+", name) or hasattr(nn.ModuleDict(), name):
        raise AdapterError(f"{name!r} cannot name an adapter: use letters, digits, _ and -, no method names")
    if name in adapters(loaded):
        raise AdapterError(f"an adapter named {name!r} is attached already: detach it or choose another name")


def wrap(model: nn.Module, site: str) -> Wrapper:
    """The wrapper at `site`, made where there is none."""
    module = model.get_submodule(site)
    if isinstance(module, AdaptedLinear):
        return module
    if isinstance(module, nn.Linear):
        wrapper = AdaptedLinear(module).train(module.training)
        parent, _, child = site.rpartition(".")
        setattr(model.get_submodule(parent), child, wrapper)
        return wrapper
    if not hasattr(module, "adapter"):
        module.adapter = AdaptedExperts(cast(Experts, module)).train(module.training)
    adapter = module.adapter
    assert isinstance(adapter, AdaptedExperts)
    return adapter


def _experts_shape(module: nn.Module) -> tuple[int, int, int]:
    """E, H and I of a fused experts module."""
    experts, hidden, width = cast(Experts, module).down_proj.shape
    return experts, hidden, width


def unwrap(model: nn.Module, site: str, wrapper: Wrapper) -> None:
    """Put the base module back in its place."""
    if isinstance(wrapper, AdaptedExperts):
        del model.get_submodule(site).adapter
    else:
        parent, _, child = site.rpartition(".")
        setattr(model.get_submodule(parent), child, wrapper.base_layer)


def _attachment(loaded: Loaded) -> Attachment:
    if not hasattr(loaded.model, "attachment"):
        raise AdapterError("no adapter is attached to this model: call attach or load_adapter first")
    attachment: Attachment = loaded.model.attachment
    return attachment


def _known(loaded: Loaded, name: str) -> str:
    if name not in adapters(loaded):
        attached = ", ".join(adapters(loaded)) or "none"
        raise AdapterError(f"no adapter named {name!r} is attached (attached: {attached})")
    return name
