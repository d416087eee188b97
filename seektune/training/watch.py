"""A trainer under the eyes of health: what the numbers of each attempt say, and the way back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

from seektune.adapters.attach import disabled
from seektune.errors import NonFiniteError, TrainingError
from seektune.models.routing import joined, recorded_routing, routers
from seektune.training.attempt import Attempt
from seektune.training.causes import explained
from seektune.training.finding import Finding, strongest
from seektune.training.health import Extras, Health
from seektune.training.optim import factors
from seektune.training.probe import Movement, parameters_finite, row_lengths, rows_of
from seektune.training.schedule import slow_down
from seektune.training.state import State
from seektune.training.trainer import Trainer
from seektune.types import Batch, BatchSource, RoutingProfile, StepMetrics

ROUTING_BATCHES = 16
"""Held-out batches of each process whose routing is held against the base's."""

ENDS = frozenset({"eval_worse", "plateau"})
"""Findings whose `stop` ends the run in order: nothing is broken, more steps would only not help."""


class Watch:
    """Judges every attempt of a trainer, the same on every rank, and keeps the last state to go back to."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._loaded = trainer.loaded
        settings = trainer.settings
        self._routes = settings.health.routing_collapse != "ignore" and bool(routers(self._loaded))
        self._routing: RoutingProfile | None = None  # of this rank's held-out rows, when last scored
        self.health = Health(settings.health, settings)
        self._goes_back = any(policy == "rollback" for _, policy in settings.health)
        self._kept: State | None = None
        self._moved: dict[str, float] | None = None  # not judged yet
        self._start()

    def judged(self, attempt: Attempt) -> tuple[Finding, ...]:
        """What is wrong with an attempt that is neither applied nor discarded yet, explained."""
        finite = self._moved is None or parameters_finite(self._trained)
        local = row_lengths(attempt.window.batches), self._moved, finite
        ranks = self._trainer.ranks.every(local)
        movements = [moved for _, moved, _ in ranks if moved is not None]
        extras = Extras(
            row_lengths=tuple(length for lengths, _, _ in ranks for length in lengths),
            loss_scale=attempt.loss_scale,
            parameters_finite=all(finite for _, _, finite in ranks),
            movement={key: max(moved[key] for moved in movements) for key in movements[0]}
            if movements
            else None,
        )
        found = self.health.observe(attempt.metrics(self._trainer.step + 1), extras)
        return self._possible(self._explained(found, attempt)) if found else ()

    def applied(self, metrics: StepMetrics) -> None:
        """Note that an update was applied; what moved is judged with the next attempt."""
        if self._stage != self._trainer.turns.stage:
            self._start()  # others train now
        else:
            self._moved = self._movement.after_step(metrics.learning_rate)

    def evaluated(
        self, metrics: StepMetrics, batches: BatchSource
    ) -> tuple[StepMetrics, tuple[Finding, ...]]:
        """Score `batches` after the step of `metrics`: the metrics with the loss, and what is wrong.

        The first time the base is scored too, on a part of them: its routing is what is usual.
        """
        if self._routes and self.health.base_routing is None:
            with disabled(self._loaded):
                self._trainer.score(self._observed(islice(batches.epoch(0), ROUTING_BATCHES)))
            self.health.base_routing = self._routing_of_all()
        epoch = batches.epoch(0)
        try:
            loss = self._trainer.evaluate(self._observed(epoch) if self._routes else epoch)
        except NonFiniteError as error:
            found = Finding("non_finite", metrics.step, "stop", {"eval_loss": math.nan}, str(error))
            return replace(metrics, eval_loss=math.nan), (found,)
        metrics = replace(metrics, eval_loss=loss)
        return metrics, self._possible(self.health.evaluated(metrics, self._routing_of_all()))

    def state(self) -> State:
        """The trainer's state and health's record; a rollback returns to the last one that was asked for."""
        state = self._trainer.state()
        state = replace(state, values={**state.values, "health": self.health.record()})
        self._keep(state)
        return state

    def resume(self, state: State, history: Iterable[StepMetrics] = ()) -> None:
        """Go on from `state`, whose run logged `history`."""
        self._trainer.restore(state)
        self.health.resume(state.values["health"], history)
        self._keep(state)
        self._start()

    def roll_back(self) -> State:
        """Return to the last state, with learning rates lowered once more; the state that it was."""
        state = self._kept
        assert state is not None  # `_possible` asks for no other rollback
        self._trainer.restore(state, same_run=True)
        rollbacks = self.health.rollbacks - state.values["health"]["rollbacks"]
        slow_down(self._trainer.schedule, self.health.config.rollback_learning_rate_factor**rollbacks)
        self._start()
        return state

    def _start(self) -> None:
        """Look at the movement of the parameters from here on."""
        self._movement, self._moved = Movement(self._loaded, factors(self._trainer.optimizer)), None
        self._stage = self._trainer.turns.stage
        self._trained = [p for p in self._loaded.model.parameters() if p.requires_grad]

    def _keep(self, state: State) -> None:
        if self._goes_back and state.finite:
            self._kept = state

    def _possible(self, found: tuple[Finding, ...]) -> tuple[Finding, ...]:
        """A rollback without a state to go back to becomes a stop."""
        if strongest(found) != "rollback" or self._kept is not None:
            return found
        why = "there is no checkpoint to go back to yet"
        return tuple(
            replace(f, action="stop", cause=f"{f.cause}; {why}") if f.action == "rollback" else f
            for f in found
        )

    def _explained(self, found: Iterable[Finding], attempt: Attempt) -> tuple[Finding, ...]:
        local = rows_of(attempt.batches, attempt.log_probs, attempt.tokens)
        rows = [row for of_rank in self._trainer.ranks.every(local) for row in of_rank]
        broken = any(finding.kind == "non_finite" for finding in found)
        origin = self._trainer.origin(attempt) if broken else None
        return tuple(
            explained(f, self._trainer.settings, rows, origin if f.kind == "non_finite" else None)
            for f in found
        )

    def _observed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches as they are; the routing of the first few is recorded while they pass."""
        with recorded_routing(self._loaded) as record:
            yield from islice(batches, ROUTING_BATCHES)
        self._routing = record.profile()
        yield from batches

    def _routing_of_all(self) -> RoutingProfile | None:
        return None if self._routing is None else joined(self._trainer.ranks.every(self._routing))


def stopped(found: Iterable[Finding]) -> TrainingError | None:
    """The error of a run that must stop; None where it ends in order."""
    reasons = [finding for finding in found if finding.action == "stop"]
    if all(finding.kind in ENDS for finding in reasons):
        return None
    broken = any(finding.kind == "non_finite" for finding in reasons)
    text = "\n".join(map(str, reasons))
    return NonFiniteError(text) if broken else TrainingError(text)


def ended(history: Sequence[StepMetrics]) -> bool:
    """Whether the last logged step ended its run in order."""
    kinds = {finding["kind"] for m in history[-1:] for finding in m.findings if finding["action"] == "stop"}
    return bool(kinds) and kinds <= ENDS
