"""Watches a run by the numbers of its steps and says what to do; plain Python, no model, no tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from seektune.config.training import HealthConfig, TrainingConfig
from seektune.training import signals
from seektune.training.causes import advice
from seektune.training.finding import Finding, strongest
from seektune.training.signals import ENOUGH, WINDOW, Evidence
from seektune.types import RoutingProfile, StepMetrics

OVERFIT_EVALUATIONS, OVERFIT_MARGIN = 3, 0.05
"""Without early_stopping_patience: so many evaluations in a row, each worse than the best by so much."""

PLATEAU_EVERY = 50
"""Steps between two looks for a plateau, which sorts half the run."""

QUIET = 50
"""Steps for which a warning of one kind is not repeated."""

LASTING = frozenset({"plateau", "divergence", "dead_adapter", "routing_collapse", "eval_worse"})
"""Kinds that stay true once they are: said again only when the run is twice as long."""

ROWS_KEPT = 1000
"""Latest rows whose lengths say what is usual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What StepMetrics does not carry; leave out what was not measured at this step."""

    row_lengths: tuple[int, ...] = ()  # tokens of each row of the step
    loss_scale: float | None = None  # by which this step's float16 gradients were scaled
    parameters_finite: bool = True  # of the adapter
    movement: Mapping[str, float] | None = None  # group → probe.Movement


class Health:
    """Judges one run step by step: `observe` each step's metrics, best before its update is applied.

    The verdict is a function of what was observed; what comes after a rollback is observed as if the steps
    that were undone had never been. `record` and the logged steps are all that a resumed run needs.
    """

    def __init__(
        self,
        config: HealthConfig | None = None,
        settings: TrainingConfig | None = None,
        *,
        base_routing: RoutingProfile | None = None,
    ) -> None:
        self.config = config or HealthConfig()
        self.settings = settings or TrainingConfig()
        self.base_routing = base_routing
        self.rollbacks = 0  # so far
        self._steps: list[StepMetrics] = []  # with finite numbers
        self._evaluations: list[StepMetrics] = []
        self._scales: list[float] = []
        self._lengths: list[int] = []
        self._lowest = math.inf  # median of ENOUGH losses in a row
        self._highest_norm = 0.0
        self._skipped = 0  # steps in a row
        self._said: dict[str, int] = {}  # kind → step of its last warning
        self._goes_back = False  # the next step follows a rollback

    def observe(self, metrics: StepMetrics, extras: Extras | None = None) -> tuple[Finding, ...]:
        """What is wrong at this step, each finding with the action its policy asks for.

        Too many skipped steps in a row and too many rollbacks become `stop`.
        """
        extras = extras or Extras()
        self._rewind_before(metrics)
        found = self._found(metrics, extras)
        self._lengths += extras.row_lengths
        del self._lengths[:-ROWS_KEPT]
        return self._escalated(self._findings(found, metrics))

    def evaluated(self, metrics: StepMetrics, routing: RoutingProfile | None = None) -> tuple[Finding, ...]:
        """The same for an evaluation that came after its step was observed.

        `metrics` has its `eval_loss`; `routing` is of the rows of `base_routing`.
        """
        found = {"eval_worse": self._eval_worse(metrics)}
        if routing is not None and self.base_routing is not None:
            found["routing_collapse"] = signals.routing_collapse(self.base_routing, routing)
        return self._escalated(self._findings(found, metrics))

    def record(self) -> dict[str, Any]:
        """What the logged steps do not tell, as JSON values."""
        return {"rollbacks": self.rollbacks, "skipped": self._skipped, "row_lengths": list(self._lengths)}

    def resume(self, record: Mapping[str, Any], history: Iterable[StepMetrics] = ()) -> None:
        """Go on where the one that made `record` was, after the logged steps `history`."""
        self._lengths = list(record["row_lengths"])
        for metrics in history:
            self._recall(metrics)
        self.rollbacks, self._skipped = record["rollbacks"], record["skipped"]

    def _recall(self, logged: StepMetrics) -> None:
        """Remember a logged step and what was said of it."""
        metrics = replace(logged, findings=())
        self._rewind_before(metrics)
        if metrics.loss_scale is not None:
            self._scales.append(metrics.loss_scale)
        broken = any(finding["kind"] == "non_finite" for finding in logged.findings)
        if math.isfinite(metrics.grad_norm) and not broken:
            self._remember(metrics)
        if metrics.eval_loss is not None:
            self._evaluations.append(metrics)
        for finding in logged.findings:
            if finding["action"] == "warn":
                self._said[finding["kind"]] = finding["step"]
        self._goes_back = logged.calls_for("rollback")

    def _rewind_before(self, metrics: StepMetrics) -> None:
        """After a rollback, forget what came after the step that the run went back to."""
        if not self._goes_back:
            return
        self._goes_back, step = False, metrics.step - 1
        kept = [metrics for metrics in self._steps if metrics.step <= step]
        self._steps, self._lowest, self._highest_norm = [], math.inf, 0.0
        for metrics in kept:
            self._remember(metrics)
        self._evaluations = [metrics for metrics in self._evaluations if metrics.step <= step]
        self._scales.clear()
        self._said = {kind: said for kind, said in self._said.items() if said <= step}

    def _found(self, metrics: StepMetrics, extras: Extras) -> dict[str, Evidence | None]:
        """Kind → evidence, None where nothing is wrong."""
        found: dict[str, Evidence | None] = {}
        if extras.loss_scale is not None:
            self._scales.append(extras.loss_scale)
            found["loss_scale"] = signals.loss_scale_falling(self._scales)
        if (broken := _non_finite(metrics, extras)) is not None:
            return found | {"non_finite": broken | self._usual_tokens()}
        if not math.isfinite(metrics.grad_norm):
            return found  # the loss scale takes care of it
        self._remember(metrics)
        found |= self._from_steps()
        found["long_row"] = signals.long_row(extras.row_lengths, self._lengths)
        if extras.movement is not None:
            found["dead_adapter"] = signals.dead_groups(extras.movement)
        if metrics.eval_loss is not None:
            found["eval_worse"] = self._eval_worse(metrics)
        return found

    def _remember(self, metrics: StepMetrics) -> None:
        self._steps.append(metrics)
        self._highest_norm = max(self._highest_norm, metrics.grad_norm)
        if len(self._steps) >= ENOUGH:
            self._lowest = min(self._lowest, median(m.loss for m in self._steps[-ENOUGH:]))

    def _from_steps(self) -> dict[str, Evidence | None]:
        first, recent = self._steps[: signals.FIRST], self._steps[-WINDOW - 1 :]
        losses, norms = [m.loss for m in recent], [m.grad_norm for m in recent]
        first_norm = median(m.grad_norm for m in first)
        usual_tokens = self._usual_tokens()
        spike = signals.loss_spike(losses)
        explosion = signals.gradient_explosion(norms, [m.tokens for m in recent], first_norm)
        found: dict[str, Evidence | None] = {
            "loss_spike": spike and spike | usual_tokens,
            "gradient_explosion": explosion and explosion | usual_tokens,
            "divergence": signals.divergence(
                losses,
                norms,
                first_losses=[m.loss for m in first],
                first_norms=[m.grad_norm for m in first],
                lowest=self._lowest,
                highest_norm=self._highest_norm,
            ),
        }
        if len(self._steps) % PLATEAU_EVERY == 0:
            rates = [m.learning_rate for m in self._steps]
            found["plateau"] = signals.plateau([m.loss for m in self._steps], rates)
        return found

    def _eval_worse(self, metrics: StepMetrics) -> Evidence | None:
        self._evaluations.append(metrics)
        losses = [metrics.eval_loss for metrics in self._evaluations if metrics.eval_loss is not None]
        patience, threshold = self.config.early_stopping_patience, self.config.early_stopping_threshold
        if patience is not None:
            seen = signals.eval_worse(losses, patience, threshold)
        else:
            seen = signals.eval_worse(losses, OVERFIT_EVALUATIONS, margin=OVERFIT_MARGIN)
        if seen is None:
            return None
        best = self._evaluations[len(losses) - 1 - int(seen["evaluations_since"])]
        return seen | {"best_step": best.step, "best_epoch": best.epoch}

    def _usual_tokens(self) -> Evidence:
        return {"usual_tokens": median(self._lengths)} if len(self._lengths) >= ENOUGH else {}

    def _findings(self, found: Mapping[str, Evidence | None], metrics: StepMetrics) -> list[Finding]:
        return [made for kind, seen in found.items() if (made := self._finding(kind, seen, metrics))]

    def _finding(self, kind: str, seen: Evidence | None, metrics: StepMetrics) -> Finding | None:
        if seen is None:
            return None
        action = getattr(self.config, kind)
        if kind == "eval_worse" and self.config.early_stopping_patience is not None:
            action = "stop"
        if action == "ignore":
            return None
        if action == "warn":
            said = self._said.get(kind)
            if said is not None and metrics.step < said + max(QUIET, said if kind in LASTING else 0):
                return None
            self._said[kind] = metrics.step
        groups = tuple(seen) if kind == "dead_adapter" else ()
        cause, change = advice(kind, seen, self.settings, groups)
        return Finding(kind, metrics.step, action, seen, cause, change, groups=groups)

    def _escalated(self, findings: list[Finding]) -> tuple[Finding, ...]:
        action = strongest(findings)
        self._skipped = self._skipped + 1 if action == "skip" else 0
        exhausted = self._skipped > self.config.max_skipped_steps
        if action == "rollback":
            exhausted = self.rollbacks >= self.config.max_rollbacks
            self.rollbacks += not exhausted
            self._goes_back = not exhausted
        if not exhausted:
            return tuple(findings)
        return tuple(replace(f, action="stop") if f.action == action else f for f in findings)


def _non_finite(metrics: StepMetrics, extras: Extras) -> Evidence | None:
    """The numbers that are not finite; a gradient that loss scaling will retry is not one of them."""
    bad = {} if math.isfinite(metrics.loss) else {"loss": metrics.loss}
    if not math.isfinite(metrics.grad_norm) and not (extras.loss_scale or 0) > 1:
        bad["grad_norm"] = metrics.grad_norm
    if not extras.parameters_finite:
        bad |= {"loss": metrics.loss, "grad_norm": metrics.grad_norm}
    return bad or None
