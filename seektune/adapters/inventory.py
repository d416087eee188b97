"""The trained-what gate: what trains, group by group, and proof that it did and that nothing else moved."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from seektune.adapters.attach import Delta, active_adapter, chosen_sites, deltas_of, spec_of
from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.fingerprints import checksums
from seektune.adapters.frozen import Frozen, plain_name
from seektune.adapters.participation import clear, gradient_problems, used
from seektune.adapters.shards import local
from seektune.adapters.wrap import AdaptedLinear
from seektune.errors import GateError
from seektune.models.families import GROUPS
from seektune.models.load import Loaded
from seektune.models.sites import Site, all_sites
from seektune.types import Inventory, InventoryRow

_CARRIED = ("gradients", "first_update")
"""Checks that a resumed run takes over as passed."""


def inventory(loaded: Loaded, only: Collection[str] | None = None) -> Inventory:
    """What the active adapter trains, one row per group that exists in the model; prints as a table.

    `only` names the sites whose deltas count, where a stage trains a part.
    """
    name = active_adapter(loaded)
    deltas = {} if name is None else deltas_of(loaded, name)
    deltas = {site: delta for site, delta in deltas.items() if only is None or site in only}
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

    `stages` names the sites that train in each stage of the run; then gradients and first update are checked
    in every stage, which `begin` opens. Each failed check raises GateError naming the modules; `inventory`
    carries what is known so far. The checks after the first of each kind cost nothing, so they may be called
    at every step.
    """

    def __init__(self, loaded: Loaded, stages: Mapping[str, Collection[str]] = MappingProxyType({})) -> None:
        self._loaded = loaded
        name = active_adapter(loaded)
        if name is None:
            raise GateError("no adapter is active, so nothing would train: attach or activate one")
        self._deltas = deltas_of(loaded, name)
        self.inventory = inventory(loaded)
        _raise("the adapter is not what its spec asks for", _table_problems(loaded, name, self._deltas))
        self._sites = list(stages.values())
        self._records: list[dict[str, Any]] = [{"stage": key} | dict.fromkeys(_CARRIED) for key in stages]
        self._tables = [inventory(loaded, sites) for sites in self._sites]
        self._stage: int | None = None  # under way
        self._note(table=True, gradients=None, first_update=None)
        self._learning: Mapping[str, Delta] = self._deltas
        self._resting: dict[str, int] = {}  # checksums of what must not move in this stage
        self._used: dict[str, set[int]] = {site: set() for site in self._deltas}  # before this stage
        self._clear()
        self._held = Frozen(loaded, self._deltas)
        self._before: dict[str, int] = {}
        self._with_gradient: set[str] = set()

    def begin(self, stage: int) -> None:
        """From now on the deltas of that stage train and no others; what rested until now did not move."""
        problems = self._moved_resting()
        self._used, self._stage = self._used_so_far(), stage
        self._learning = {site: self._deltas[site] for site in self._deltas if site in self._sites[stage]}
        learning = dict(_named_parameters(self._learning))
        everything = dict(_named_parameters(self._deltas))
        for key, parameter in everything.items():
            if parameter.requires_grad != (key in learning):
                problems.append(f"{key} " + ("is frozen" if key in learning else "would train"))
        self._resting = checksums({key: local(p) for key, p in everything.items() if key not in learning})
        self._clear()
        _raise(f"at the beginning of {self._records[stage]['stage']}", problems)

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
        if self._judged("gradients"):
            return
        problems = [line for site, delta in self._learning.items() for line in gradient_problems(site, delta)]
        if not any(used(delta) for delta in self._learning.values()):
            problems.append("no adapted module took part in the first step")
        self._judge("gradients", "after the first backward", problems)

    def before_update(self) -> None:
        """Before an optimiser step: note the trainable parameters, until the first update is checked."""
        if self._judged("first_update"):
            return
        trainable = dict(_named_parameters(self._learning))
        self._before = checksums({key: local(p) for key, p in trainable.items()})
        self._with_gradient = {
            key for key, p in trainable.items() if p.grad is not None and bool(local(p.grad).any())
        }

    def after_update(self, learning_rate: float) -> None:
        """After the first optimiser step at a rate above 0: what had a gradient moved, nothing frozen did.

        `learning_rate` is the lowest of all parameters.
        """
        if self._judged("first_update") or learning_rate <= 0:
            return
        trainable = {key: local(p) for key, p in _named_parameters(self._learning)}
        after = checksums(trainable)
        problems = [
            f"{key} had a gradient but did not change: is it in the optimiser?"
            for key in sorted(self._with_gradient)
            if after[key] == self._before[key] and not _lost_in_rounding(trainable[key], learning_rate)
        ]
        problems += self._moved_resting() + self._held.moved_router() + self._held.moved_base()
        self._judge("first_update", "after the first update", problems)

    def record(self) -> dict[str, Any]:
        """What the gate of a resumed run must know, as JSON values: the base, what passed, what was used."""
        record = {
            "base": self._held.identity,
            "passed": {key: self.inventory.checks[key] for key in _CARRIED},
            "used": {site: sorted(experts) for site, experts in self._used_so_far().items()},
        }
        return record | ({"stages": [dict(stage) for stage in self._records]} if self._records else {})

    def join(self, records: Iterable[Mapping[str, Any]]) -> None:
        """What was used in any of the processes that made `records` has been used."""
        for record in records:
            for site, seen in self._used.items():
                seen |= set(record["used"][site])

    def resume(self, record: Mapping[str, Any]) -> None:
        """Go on where the gate that made `record` stopped; what has passed is not asked again.

        Late in a run a gradient may vanish and an update may be lost in rounding by right, so a second
        first step proves nothing. With stages, `begin` must follow. Raises GateError when the base is not the
        one the run began with.
        """
        if record["base"] != self._held.identity:
            raise GateError(
                "the base is not the one the run began with: its frozen weights differ from those that the "
                "checkpoint was trained on; load the same base in the same dtype, or start again"
            )
        self._records = [dict(stage) for stage in record.get("stages", [])]
        self._note(**{key: record["passed"][key] for key in _CARRIED})
        self._used = {site: set(record["used"].get(site, [])) for site in self._deltas}
        self._resting, self._stage = {}, None
        self._clear()

    def finish(self) -> Inventory:
        """The proofs at the end, also of a run that died: nothing frozen moved, no group went unused."""
        router, frozen = self._held.moved_router(), self._held.moved_base()
        resting, in_use = self._moved_resting(), self._used_so_far()
        unused = self._unused_groups(in_use)
        experts = {site: d for site, d in self._deltas.items() if isinstance(d, ExpertsLowRank)}
        self._note(
            router_unchanged=not router if self._held.router else None,
            router_tensors=self._held.router,
            frozen_unchanged=not frozen,
            frozen_tensors=self._held.base,
            unused_groups=unused,
            experts_adapted=sum(len(delta.experts) for delta in experts.values()),
            experts_never_hit=sum(len({*d.experts} - in_use[site]) for site, d in experts.items()),
        )
        lines = [f"group {group} trains, but no batch ever used it: leave it out" for group in unused]
        _raise("at the end of the run", [*router, *frozen, *resting, *lines])
        return self.inventory

    def _judged(self, check: str) -> bool:
        """Whether a check has passed or failed already, in the stage under way if there is one."""
        scope = self.inventory.checks if self._stage is None else self._records[self._stage]
        return scope[check] is not None

    def _judge(self, check: str, when: str, problems: Sequence[str]) -> None:
        passed = not problems
        if self._stage is not None:
            self._records[self._stage][check] = passed
            when += f" of {self._records[self._stage]['stage']}"
        self._note(**{check: passed and self.inventory.checks[check] is not False})
        _raise(when, problems)

    def _note(self, **checks: Any) -> None:
        parts = zip(self._tables, self._records, strict=True)
        stages = tuple(replace(table, checks=dict(record)) for table, record in parts)
        self.inventory = replace(self.inventory, checks=self.inventory.checks | checks, stages=stages)

    def _clear(self) -> None:
        for delta in self._deltas.values():
            clear(delta)

    def _used_so_far(self) -> dict[str, set[int]]:
        """By site what `used` says of this stage and of those before it; resting deltas only ran."""
        return {
            site: self._used[site] | (set(used(delta)) if site in self._learning else set())
            for site, delta in self._deltas.items()
        }

    def _moved_resting(self) -> list[str]:
        parameters = {key: local(p) for key, p in _named_parameters(self._deltas) if key in self._resting}
        moved = [key for key, value in checksums(parameters).items() if value != self._resting[key]]
        return [f"{key} must rest in this stage but changed" for key in moved]

    def _unused_groups(self, in_use: Mapping[str, Collection[int]]) -> list[str]:
        """Of what had an update: a run may end before its first, or before a stage."""
        whole = [(self.inventory.checks, self._deltas)]
        parts = list(zip(self._records, self._sites, strict=True)) or whole
        learned = {site for checks, sites in parts if checks["first_update"] is not None for site in sites}
        took_part: dict[str, bool] = {}
        for site in all_sites(self._loaded.model, self._loaded.family):
            if site.name in learned:
                took_part[site.group] = took_part.get(site.group, False) or bool(in_use[site.name])
        return [group for group, took in took_part.items() if not took]


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


def _lost_in_rounding(parameter: Tensor, learning_rate: float) -> bool:
    """Whether an Adam step, about the learning rate in size, may vanish in float32."""
    return learning_rate < torch.finfo(parameter.dtype).eps * float(parameter.detach().abs().max())


def _raise(when: str, problems: Iterable[str]) -> None:
    lines = list(problems)
    if lines:
        raise GateError(f"trained-what gate, {when}:\n  " + "\n  ".join(lines))
