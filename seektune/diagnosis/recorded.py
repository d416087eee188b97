"""What health said while the run went on, as causes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from seektune.diagnosis.cause import Cause, Question

NAMES: Mapping[str, tuple[Question, str]] = MappingProxyType(
    {
        "non_finite": ("numbers", "non_finite"),
        "loss_scale": ("numbers", "loss_scale"),
        "divergence": ("rate", "learning_rate_too_high"),
        "routing_collapse": ("rate", "routing_collapse"),
        "dead_adapter": ("targets", "frozen_group"),
        "long_row": ("data", "long_row"),
        "eval_worse": ("length", "overfitting"),
        "loss_spike": ("symptoms", "loss_spike"),
        "gradient_explosion": ("symptoms", "gradient_explosion"),
    }
)
"""Question and kind of each of health's kinds; a plateau is none: it says that a run has learnt enough."""


def health_causes(findings: Iterable[Mapping[str, Any]]) -> Iterator[Cause]:
    """One cause per kind of finding, told by the first; `findings` as `Finding.to_json` gives them."""
    by_kind: dict[str, list[Mapping[str, Any]]] = {}
    for finding in findings:
        by_kind.setdefault(_kind(finding), []).append(finding)
    for kind, found in by_kind.items():
        if kind in NAMES:
            yield _cause(*NAMES[kind], found)
        elif kind == "nothing_learnt":
            yield _cause("rate", "learning_rate_too_low", found)


def _kind(finding: Mapping[str, Any]) -> str:
    evidence = finding["evidence"]
    if finding["kind"] == "plateau" and evidence["loss"] > 0.98 * evidence["first_loss"]:
        return "nothing_learnt"
    return str(finding["kind"])


def _cause(question: Question, kind: str, found: Sequence[Mapping[str, Any]]) -> Cause:
    first = found[0]
    again = f" ({len(found)} times from there on)" if len(found) > 1 else ""
    named = f"{first['kind'].replace('_', ' ')}{again}"
    evidence = {"step": first["step"], "times": len(found), **first["evidence"]}
    rows = tuple(
        {"row": row["row_id"], "loss": row["loss"], "tokens": row["tokens"]} for row in first["rows"]
    )
    weight = math.inf if question == "numbers" else float(len(found)) / 1e3
    sentence = f"Step {first['step']}: {named}: {first['cause']}."
    return Cause(question, kind, weight, evidence, sentence, tuple(first["change"]), rows)
