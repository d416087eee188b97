"""What health finds: plain nouns, written to the run's records as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Action = Literal["warn", "skip", "rollback", "stop"]

ACTIONS: tuple[Action, ...] = ("warn", "skip", "rollback", "stop")
"""From mild to severe."""

DONE = {
    "skip": "the step's update was left out",
    "rollback": "back to the last checkpoint, with a lower learning rate",
    "stop": "the run stops here",
}
"""What an action means, in words."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a step: its name, tokens, share of the step's tokens, mean loss of its targets."""

    row_id: str  # file:line
    tokens: int
    share: float
    loss: float | None = None  # None where nothing carries loss; may be infinite or not a number


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value that is not finite first appeared when the step's rows were run once more.

    `module` is the name in the model, "loss" behind the last module, or a parameter where `what` says so.
    """

    module: str
    layer: int | None  # None outside the decoder layers
    what: Literal["output", "gradient", "parameter"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a run: the numbers, the likely cause, and what to write in the YAML."""

    kind: str  # a policy of config.training.HealthConfig
    step: int
    action: Action
    evidence: Mapping[str, float]
    cause: str
    change: tuple[str, ...] = ()  # lines such as `training.learning_rate: 1e-05`
    rows: tuple[Row, ...] = ()
    origin: Origin | None = None
    groups: tuple[str, ...] = field(default=())  # the groups or layers it is about

    def to_json(self) -> dict[str, Any]:
        """Plain values for the run's records; a number that is not finite stays what it is."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Finding:
        """The finding that `to_json` wrote."""
        origin = values["origin"]
        nouns = {
            "change": tuple(values["change"]),
            "rows": tuple(Row(**row) for row in values["rows"]),
            "origin": None if origin is None else Origin(**origin),
            "groups": tuple(values["groups"]),
        }
        return cls(**{**values, **nouns})

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in self.evidence.items())
        lines = [f"step {self.step}: {self.kind.replace('_', ' ')} ({numbers})", self.cause]
        lines += [_described(row) for row in self.rows]
        if self.change:
            lines.append("change: " + ", ".join(self.change))
        if self.action in DONE:
            lines.append(DONE[self.action])
        return "\n  ".join(lines)


def strongest(findings: Iterable[Finding]) -> Action | None:
    """The severest action asked for, None when nothing was found."""
    asked = {finding.action for finding in findings}
    return max(asked, key=ACTIONS.index, default=None)


def _described(row: Row) -> str:
    loss = "no loss" if row.loss is None else f"loss {row.loss:.4g}"
    return f"{row.row_id}: {row.tokens} tokens, {row.share:.0%} of the step, {loss}"
