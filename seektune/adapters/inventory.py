"""The trained-what gate: what trains, group by group, and proof that it did and that nothing else moved."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from seektune.adapters.attach import Delta, active_adapter, chosen_sites, deltas_of, spec_of
from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.fingerprints import checksums
from seektune.adapters.frozen import Frozen, plain_name
from seektune.adapters.lowrank import LowRank
from seektune.adapters.shards import local, whole
from seektune.adapters.wrap import AdaptedLinear
from seektune.errors import GateError
from seektune.models.families import GROUPS
from seektune.models.load import Loaded
from seektune.models.sites import Site, all_sites
from seektune.types import Inventory, InventoryRow

_CARRIED = ("gradients", "first_update")
"""Checks that a resumed run takes over as passed."""


def inventory(loaded: Loaded) -> Inventory:
    """What the active adapter trains, one row per group that exists in the model; prints as a table."""
    name = active_adapter(loaded)
    deltas = {} if name is None else deltas_of(loaded, name)
    sites = all_sites(loaded.model, loaded.family)
    rows = [_row(group, [s for s in sites if s.group == group], deltas) for group in GROUPS]
    total = sum(p.numel() for key, p in loaded.model.named_parameters() if ".deltas." not in key)
    return Inventory(tuple(row for row in rows if row.existing), total)


def _row(group: str, sites: list[Site], deltas: Mapping[str, Delta]) -> InventoryRow:
    added = [p for s in sites if s.name in deltas for p in deltas[s.name].parameters() if p.requires_grad]
    return InventoryRow(
        group=group,
        matched=sum(site.name in deltas for site in sites),
        existing=len(sites),
        parameters=sum(p.numel() for site in sites for p in _own(site.module).parameters(recurse=False)),
        trainable=sum(p.numel() for p in added),
        bytes=sum(p.numel() * p.element_size() for p in added),
    )


def _own(module: nn.Module) -> nn.Module:
    return module.base_layer if isinstance(module, AdaptedLinear) else module


class Gate:
    """Checks a run of the active adapter, in this order: the table now, gradients, first update, proofs.

    Each failed check raises GateError naming the modules; `inventory` carries what is known so far. The
    checks after the first of each kind cost nothing, so they may be called at every step.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        name = active_adapter(loaded)
        if name is None:
            raise GateError("no adapter is active, so nothing would train: attach or activate one")
        self._deltas = deltas_of(loaded, name)
        self.inventory = inventory(loaded)
        _raise("the adapter is not what its spec asks for", _table_problems(loaded, name, self._deltas))
        self._note(table=True, gradients=None, first_update=None)
        for delta in self._deltas.values():
            _clear_record(delta)
        self._held = Frozen(loaded, self._deltas)
        self._before: dict[str, int] = {}
        self._with_gradient: set[str] = set()

    def sharded(self) -> None:
        """Once the model is held in parts (FSDP2): together they are what it was; every process must call it.

        From here on each process proves of its own parts that they do not move.
        """
        _raise("after sharding", self._held.sharded())

    def after_backward(self) -> None:
        """After the first backward: each B whose module took part has a finite, non-zero gradient.

        For experts, each row of a B whose expert had a token with a gradient. At the first step the
        gradient of A is zero, as B is: only B is asked.
        """
        if self.inventory.checks["gradients"] is not None:
            return
        problems = [line for site, delta in self._deltas.items() for line in _gradient_problems(site, delta)]
        if not any(_took_part(delta) for delta in self._deltas.values()):
            problems.append("no adapted module took part in the first step")
        self._note(gradients=not problems)
        _raise("after the first backward", problems)

    def before_update(self) -> None:
        """Before an optimiser step: note the trainable parameters, until the first update is checked."""
        if self.inventory.checks["first_update"] is not None:
            return
        trainable = dict(_named_parameters(self._deltas))
        self._before = checksums({key: local(p) for key, p in trainable.items()})
        self._with_gradient = {
            key for key, p in trainable.items() if p.grad is not None and bool(local(p.grad).any())
        }

    def after_update(self, learning_rate: float) -> None:
        """After the first optimiser step at a rate above 0: what had a gradient moved, nothing frozen did."""
        if self.inventory.checks["first_update"] is not None or learning_rate <= 0:
            return
        trainable = {key: local(p) for key, p in _named_parameters(self._deltas)}
        after = checksums(trainable)
        problems = [
            f"{key} had a gradient but did not change: is it in the optimiser?"
            for key in sorted(self._with_gradient)
            if after[key] == self._before[key] and not _lost_in_rounding(trainable[key], learning_rate)
        ]
        problems += self._held.moved_router() + self._held.moved_base()
        self._note(first_update=not problems)
        _raise("after the first update", problems)

    def record(self) -> dict[str, Any]:
        """What the gate of a resumed run must know, as JSON values: the base, what passed, what was used."""
        return {
            "base": self._held.identity,
            "passed": {key: self.inventory.checks[key] for key in _CARRIED},
            "used": {site: _used(delta) for site, delta in self._deltas.items()},
        }

    def resume(self, record: Mapping[str, Any]) -> None:
        """Go on where the gate that made `record` stopped; what has passed is not asked again.

        Late in a run a gradient may vanish and an update may be lost in rounding by right, so a second
        first step proves nothing. Raises GateError when the base is not the one the run began with.
        """
        if record["base"] != self._held.identity:
            raise GateError(
                "the base is not the one the run began with: its frozen weights differ from those that the "
                "checkpoint was trained on; load the same base in the same dtype, or start again"
            )
        self._note(**{key: record["passed"][key] for key in _CARRIED})
        for site, delta in self._deltas.items():
            _mark_used(delta, record["used"].get(site, []))

    def finish(self) -> Inventory:
        """The proofs at the end, also of a run that died: nothing frozen moved, no group went unused."""
        router, frozen = self._held.moved_router(), self._held.moved_base()
        unused = self._unused_groups() if self.inventory.checks["first_update"] is not None else []
        experts = [delta for delta in self._deltas.values() if isinstance(delta, ExpertsLowRank)]
        self._note(
            router_unchanged=not router if self._held.router else None,
            router_tensors=self._held.router,
            frozen_unchanged=not frozen,
            frozen_tensors=self._held.base,
            unused_groups=unused,
            experts_adapted=sum(len(delta.experts) for delta in experts),
            experts_never_hit=sum(int((~delta.reached_rows()).sum()) for delta in experts),
        )
        lines = [f"group {group} trains, but no batch ever used it: leave it out" for group in unused]
        _raise("at the end of the run", [*router, *frozen, *lines])
        return self.inventory

    def _note(self, **checks: Any) -> None:
        self.inventory = replace(self.inventory, checks=self.inventory.checks | checks)

    def _unused_groups(self) -> list[str]:
        sites = all_sites(self._loaded.model, self._loaded.family)
        took_part: dict[str, bool] = {}
        for site in sites:
            if site.name in self._deltas:
                took_part[site.group] = took_part.get(site.group, False) or _took_part(
                    self._deltas[site.name]
                )
        return [group for group, used in took_part.items() if not used]


def _named_parameters(deltas: Mapping[str, Delta]) -> Iterator[tuple[str, nn.Parameter]]:
    for site, delta in deltas.items():
        for key, parameter in delta.named_parameters():
            yield f"{site}.{key}", parameter


def _table_problems(loaded: Loaded, name: str, deltas: Mapping[str, Delta]) -> Iterator[str]:
    wanted = {site.name for site, _ in chosen_sites(loaded, spec_of(loaded, name))}
    yield from (f"{site} was asked for but carries no adapter" for site in sorted(wanted - deltas.keys()))
    yield from (f"{site} carries an adapter nobody asked for" for site in sorted(deltas.keys() - wanted))
    trainable = dict(_named_parameters(deltas))
    for key, parameter in trainable.items():
        if not parameter.requires_grad:
            yield f"{key} is frozen"
        if parameter.dtype != torch.float32:
            yield f"{key} is {parameter.dtype}: adapters stay float32, cast the model before attaching"
    ours = {id(parameter) for parameter in trainable.values()}
    for key, parameter in loaded.model.named_parameters():
        if parameter.requires_grad and id(parameter) not in ours:
            yield f"{plain_name(key)} is not part of the adapter but would train"


def _clear_record(delta: Delta) -> None:
    if isinstance(delta, LowRank):
        delta.ran = False
    else:
        delta.reached = None


def _used(delta: Delta) -> list[int]:
    """Indices of the experts that took part; of a linear [0] when it ran."""
    if isinstance(delta, LowRank):
        return [0] if delta.ran else []
    return [] if delta.reached is None else delta.reached.nonzero().flatten().tolist()


def _mark_used(delta: Delta, used: Sequence[int]) -> None:
    if isinstance(delta, LowRank):
        delta.ran = bool(used)
        return
    delta.reached = torch.zeros(delta.slots.shape[0] + 1, dtype=torch.bool, device=delta.slots.device)
    delta.reached[list(used)] = True


def _took_part(delta: Delta) -> bool:
    if isinstance(delta, LowRank):
        return delta.ran
    return bool(delta.reached_rows().any())


def _gradient_problems(site: str, delta: Delta) -> Iterator[str]:
    # Before anything that may differ between processes: each must ask for the whole of each gradient.
    gradients = {key: None if p.grad is None else whole(p.grad) for key, p in delta.named_parameters()}
    if not _took_part(delta):
        return
    if isinstance(delta, LowRank):
        for _, problem in _bad_rows(gradients["lora_B"], torch.ones(1, dtype=torch.bool)):
            yield f"{site}.lora_B {problem}"
        return
    for key in ("gate_up_B", "down_B"):
        for row, problem in _bad_rows(gradients[key], delta.reached_rows()):
            yield f"{site}.{key} of expert {delta.experts[row]} {problem}"


def _bad_rows(gradient: Tensor | None, asked: Tensor) -> Iterator[tuple[int, str]]:
    """What is wrong with the gradient of a B that took part, by row of `asked` (N,); N = 1 for a linear."""
    rows = asked.nonzero().flatten().tolist()
    if gradient is None:
        yield from ((row, "has no gradient: it is frozen, or something cuts it off") for row in rows)
        return
    flat = gradient.reshape(asked.shape[0], -1)
    finite, moving = torch.isfinite(flat).all(1).tolist(), flat.any(1).tolist()
    for row in rows:
        if not finite[row]:
            yield row, "has a gradient that is not finite"
        elif not moving[row]:
            yield row, "has a gradient of zero: its output does not reach the loss"


def _lost_in_rounding(parameter: Tensor, learning_rate: float) -> bool:
    """Whether an Adam step, about the learning rate in size, may vanish in float32."""
    return learning_rate < torch.finfo(parameter.dtype).eps * float(parameter.detach().abs().max())


def _raise(when: str, problems: Iterable[str]) -> None:
    lines = list(problems)
    if lines:
        raise GateError(f"trained-what gate, {when}:\n  " + "\n  ".join(lines))
