"""Progressive training: which part of the adapter learns in which steps of the run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from seektune.adapters.attach import activate, active_adapter, deltas_of
from seektune.adapters.inventory import Gate
from seektune.config.stages import StageConfig
from seektune.config.training import TrainingConfig
from seektune.errors import TargetError
from seektune.models.families import GROUPS
from seektune.models.load import Loaded
from seektune.models.sites import Site, all_sites, find_sites
from seektune.training.depth import Depth
from seektune.training.schedule import Span, planned_spans
from seektune.types import BatchSource

SHARDED_STAGES = (
    "training.stages changes what trains, and a sharded model (FSDP, DeepSpeed) has not been shown to "
    "follow: train with one process or DDP, or without stages"
)
"""Why stages are refused there."""

NAMED_SITES = 4
"""Modules an error names before it only counts."""


@dataclass(frozen=True)
class Stage:
    """The sites whose deltas learn after `start` applied steps, for the steps of `span`."""

    name: str  # stage 1 of 2
    layers: range
    depth: int
    sites: frozenset[str]
    start: int
    span: Span

    def __str__(self) -> str:
        last = self.start + self.span.steps
        return (
            f"{self.name}: layers {_interval(self.layers)} of {self.depth}, "
            f"steps {self.start + 1}-{last}, learning rate {self.span.learning_rate:g}"
        )


def planned_stages(loaded: Loaded, batches: BatchSource, settings: TrainingConfig) -> tuple[Stage, ...]:
    """The stages of `settings` for the active adapter; none where none are configured or none is active.

    Raises TargetError naming the stage that has nothing to train, with what there is; and where every stage
    leaves a part of the adapter out: new, it would stay zero and cost time in every forward all the same.
    """
    name = active_adapter(loaded)
    if not settings.stages or name is None:
        return ()
    depth, deltas = Depth.of(loaded), deltas_of(loaded, name)
    adapted = [site for site in all_sites(loaded.model, loaded.family) if site.name in deltas]
    stages, start = [], 0
    spans = planned_spans(batches, settings)
    for number, (stage, span) in enumerate(zip(settings.stages, spans, strict=True), start=1):
        label = f"stage {number} of {len(spans)}"
        sites = _sites(label, stage, loaded, depth, adapted)
        layers = depth.between(*stage.layers)
        stages.append(Stage(label, layers, depth.layers, sites, start, span))
        start += span.steps
    _refuse_left_out(stages, depth, adapted)
    return tuple(stages)


def stage_at(stages: Sequence[Stage], step: int) -> int:
    """The index of the stage in which the step after `step` applied ones falls."""
    return max(index for index, stage in enumerate(stages) if stage.start <= step)


def train_only(loaded: Loaded, sites: Collection[str]) -> None:
    """Let the active adapter's deltas at `sites` learn and its others rest, without a gradient."""
    name = active_adapter(loaded)
    assert name is not None
    for site, delta in deltas_of(loaded, name).items():
        delta.requires_grad_(site in sites)


class Turns:
    """Which stage of a run is at work; without stages all of the adapter always is."""

    def __init__(self, loaded: Loaded, gate: Gate, stages: Sequence[Stage]) -> None:
        self._loaded, self._gate, self._stages = loaded, gate, stages
        self.stage: int | None = None

    def enter(self, step: int) -> None:
        """Let those parts train whose turn it is after `step` applied steps; the gate looks on."""
        if self._stages and (now := stage_at(self._stages, step)) != self.stage:
            train_only(self._loaded, self._stages[now].sites)
            self._gate.begin(now)
            self.stage = now

    def forget(self) -> None:
        """After the run went to another step: the next `enter` begins anew."""
        self.stage = None


@contextmanager
def taking_turns(loaded: Loaded, stages: Sequence[Stage]) -> Iterator[None]:
    """Whatever the stages within the block let rest, the whole adapter is trainable after it."""
    name = active_adapter(loaded)
    try:
        yield
    finally:
        if stages:
            activate(loaded, name)


def _sites(
    label: str, stage: StageConfig, loaded: Loaded, depth: Depth, adapted: Sequence[Site]
) -> frozenset[str]:
    """What the stage trains of the adapter."""
    layers = depth.between(*stage.layers)
    if not layers:
        raise TargetError(
            f"{label}: layers {list(stage.layers)} is none of the {depth.layers} layers: one layer is "
            f"{1 / depth.layers:.3f} of the depth"
        )
    named = adapted
    if stage.target_modules is not None:
        named = _named(label, stage.target_modules, loaded, adapted)
    found = [site.name for site in named if _within(depth.layer(site.name), layers)]
    if not found:
        there = sorted({depth.layer(site.name) for site in named})
        what = "nothing" if stage.target_modules is None else f"nothing of {stage.target_modules!r}"
        raise TargetError(
            f"{label}: the adapter has {what} in layers {_interval(layers)} of {depth.layers}; it is in "
            f"{_layers(there)}: change the stage's layers, or lora"
        )
    return frozenset(found)


def _named(label: str, targets: Sequence[str] | str, loaded: Loaded, adapted: Sequence[Site]) -> list[Site]:
    try:
        wanted = {site.name for site in find_sites(loaded.model, loaded.family, targets)}
    except TargetError as error:
        raise TargetError(f"{label}: {error}") from None
    found = [site for site in adapted if site.name in wanted]
    if not found:
        groups = [group for group in GROUPS if any(site.group == group for site in adapted)]
        raise TargetError(
            f"{label}: target_modules: the adapter has nothing of {targets!r}, it has {', '.join(groups)}: "
            "change the stage, or add it to lora.target_modules"
        )
    return found


def _within(layer: int, layers: range) -> bool:
    """What stands before the first layer learns with it."""
    return max(layer, 0) in layers


def _refuse_left_out(stages: Sequence[Stage], depth: Depth, adapted: Sequence[Site]) -> None:
    left = [site for site in adapted if not any(site.name in stage.sites for stage in stages)]
    if not left:
        return
    groups = [group for group in GROUPS if any(site.group == group for site in left)]
    where = _layers(sorted({depth.layer(site.name) for site in left}))
    named = ", ".join(site.name for site in left[:NAMED_SITES])
    more = f" and {len(left) - NAMED_SITES} more" if len(left) > NAMED_SITES else ""
    raise TargetError(
        f"training.stages: no stage trains {', '.join(groups)} in {where} ({named}{more}), so they would add "
        "nothing and cost time in every forward: cover them in a stage, or leave them out of lora"
    )


def _interval(layers: range) -> str:
    return f"{layers.start}-{layers.stop - 1}" if len(layers) > 1 else str(layers.start)


def _layers(numbers: Sequence[int]) -> str:
    """`layers 0-2, 5`, and what stands before the first."""
    runs: list[range] = []
    for number in (number for number in numbers if number >= 0):
        if runs and runs[-1].stop == number:
            runs[-1] = range(runs[-1].start, number + 1)
        else:
            runs.append(range(number, number + 1))
    parts = ["layers " + ", ".join(map(_interval, runs))] if runs else []
    return " and ".join((["what stands before the first layer"] if -1 in numbers else []) + parts)
