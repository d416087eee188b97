"""From evidence to plain words: the likely cause of a finding and the configuration lines to change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

from seektune.config.training import TrainingConfig
from seektune.training.finding import Finding, Origin, Row
from seektune.training.signals import LONG_SHARE, LONG_TIMES

NAMED_ROWS = 8
"""Rows a finding names."""

BAD_LABEL_TIMES, BAD_LABEL_NATS = 2.0, 1.0
"""A row whose loss stands out from the step's other rows by both is called suspicious."""

Advice = tuple[str, tuple[str, ...]]
"""Cause and lines of change."""


def advice(
    kind: str, evidence: Mapping[str, float], settings: TrainingConfig, groups: Sequence[str] = ()
) -> Advice:
    """Cause and change of a finding as far as its numbers tell; `explained` adds rows and layers."""
    rate = f"the learning rate {number(_rate(settings))}"
    gentler = (_lower_rate(settings), _lower_clip(settings))
    match kind:
        case "non_finite":
            return f"values left the range of numbers; most often {rate} is too high", gentler
        case "loss_spike":
            return f"rows unlike the others, or {rate} is too high", gentler
        case "gradient_explosion":
            return f"{rate} is too high, or a few rows are far from all others", gentler
        case "divergence":
            return f"{rate} is too high: the updates destroyed what the model knew", (_lower_rate(settings),)
        case "long_row":
            return (
                f"one row holds {evidence['share']:.0%} of the step's tokens, so the step learns little else",
                (_shorter(evidence["usual_tokens"]),),
            )
        case "plateau":
            return _plateau(evidence, settings)
        case "dead_adapter":
            which = ", ".join(groups)
            return (
                f"lora_B of {which} does not move although it should train: it was frozen after the start, "
                "is not in the optimiser, or gets no gradient",
                (f"lora.exclude_modules: [{which}]",),
            )
        case "routing_collapse":
            return (
                f"the tokens of layer {evidence['layer']:.0f} now go to "
                f"{evidence['effective_experts']:.1f} experts where the base uses "
                f"{evidence['base_effective_experts']:.1f}: the hidden states have moved too far",
                (_lower_rate(settings),),
            )
        case "loss_scale":
            return (
                "gradients overflow float16 at every scale: its range is too small for this model",
                ("training.fp16: false", "training.bf16: true"),
            )
        case "eval_worse":
            return (
                "the held-out loss no longer improves: from here on the run learns its rows by heart",
                (f"training.num_train_epochs: {number(evidence['best_epoch'])}",),
            )
    raise AssertionError(kind)


def explained(
    finding: Finding, settings: TrainingConfig, rows: Sequence[Row] = (), origin: Origin | None = None
) -> Finding:
    """The finding with the rows of its step, worst first, the origin, and the cause they point to."""
    ranked = _ranked(finding, rows)
    cause, change = (
        _from_origin(finding, origin, ranked, settings)
        or _from_rows(finding, ranked, settings)
        or (finding.cause, finding.change)
    )
    return replace(finding, cause=cause, change=change, rows=ranked[:NAMED_ROWS], origin=origin)


def number(value: float) -> str:
    """A number as one writes it: 1e-5, 0.3."""
    if value == 0 or abs(value) >= 1e-3:
        return f"{value:.3g}"
    digits, exponent = f"{value:.2e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def is_finite(row: Row) -> bool:
    """Whether the row's loss is a number, or it has none."""
    return row.loss is None or math.isfinite(row.loss)


def _plateau(evidence: Mapping[str, float], settings: TrainingConfig) -> Advice:
    steps = f"{evidence['steps']:.0f} steps brought less than 1 %"
    if evidence["loss"] > 0.98 * evidence["first_loss"]:
        higher = _change_of_rate(settings, 10 * _rate(settings))
        return (
            f"{steps} and nothing was learnt before them: the learning rate is too low or too little trains",
            (higher, "lora.target_modules: [attention, dense, shared, routed]"),
        )
    return (
        f"{steps}: the adapter has learnt what it can at this rate; more epochs will not help",
        ("training.lr_scheduler_type: cosine", "lora.r: " + "32"),
    )


def _ranked(finding: Finding, rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows that are not finite alone where there are some; else the highest loss, or the longest, first."""
    bad = tuple(row for row in rows if not is_finite(row))
    if bad:
        return bad
    if finding.kind == "long_row" or any(_is_long(row, rows, finding) for row in rows):
        return tuple(sorted(rows, key=lambda row: -row.tokens))
    return tuple(sorted(rows, key=lambda row: -(row.loss or 0.0)))


def _from_origin(
    finding: Finding, origin: Origin | None, rows: Sequence[Row], settings: TrainingConfig
) -> Advice | None:
    if origin is None:
        return None
    where = origin.module if origin.layer is None else f"{origin.module} (layer {origin.layer})"
    named = f" in {', '.join(row.row_id for row in rows[:NAMED_ROWS])}" if rows else ""
    if origin.what == "parameter" and ".deltas." in origin.module:
        return (
            f"the adapter's own {where} is not finite: an earlier update broke it, so no later step can help",
            ("training.health.non_finite: rollback", _lower_rate(settings)),
        )
    if origin.what == "parameter":
        return (
            f"the base model's {where} is damaged: it holds values that are not finite, and a token{named} "
            "reaches them; fetch the model again, or leave those rows out",
            ("training.health.non_finite: skip",),
        )
    precision = ("training.fp16: false", "training.bf16: true") if settings.fp16 else ()
    way = "values overflow in" if origin.what == "output" else "the gradient overflows behind"
    return f"{way} {where}{named}", (*precision, *finding.change)


def _from_rows(finding: Finding, rows: Sequence[Row], settings: TrainingConfig) -> Advice | None:
    if not rows or finding.kind not in ("non_finite", "loss_spike", "gradient_explosion", "long_row"):
        return None
    worst = rows[0]
    if _is_long(worst, rows, finding):
        usual = _usual_tokens(worst, rows, finding)
        return (
            f"{worst.row_id} is {worst.tokens / usual:.0f} times as long as other rows and holds "
            f"{worst.share:.0%} of the step's tokens",
            (_shorter(usual),),
        )
    others = [row.loss for row in rows[1:] if row.loss is not None and math.isfinite(row.loss)]
    if not others or worst.loss is None or not math.isfinite(worst.loss):
        return None
    usual_loss = median(others)
    if worst.loss < BAD_LABEL_TIMES * usual_loss or worst.loss - usual_loss < BAD_LABEL_NATS:
        rate = number(_rate(settings))
        return f"no row stands out, so the learning rate {rate} is too high", finding.change
    return (
        f"{worst.row_id} alone stands out, with loss {worst.loss:.3g} where the step's other rows have "
        f"{usual_loss:.3g}: its answer is probably wrong, or in another form",
        (f"training.health.{finding.kind}: skip",),
    )


def _is_long(row: Row, rows: Sequence[Row], finding: Finding) -> bool:
    return row.share >= LONG_SHARE and row.tokens >= LONG_TIMES * _usual_tokens(row, rows, finding)


def _usual_tokens(row: Row, rows: Sequence[Row], finding: Finding) -> float:
    known = finding.evidence.get("usual_tokens")
    if known is not None:
        return known
    return median(other.tokens for other in rows if other is not row) if len(rows) > 1 else row.tokens


def _rate(settings: TrainingConfig) -> float:
    """The run's learning rate, of several stages the highest."""
    return max((stage.learning_rate for stage in settings.stages), default=settings.learning_rate)


def _lower_rate(settings: TrainingConfig) -> str:
    rate = _rate(settings)
    return _change_of_rate(settings, 1e-5 if 1e-5 < rate <= 1e-4 else rate / 10)


def _change_of_rate(settings: TrainingConfig, rate: float) -> str:
    if settings.stages:
        return f"training.stages: learning_rate: {number(rate)} in the stage of this step"
    return f"training.learning_rate: {number(rate)}"


def _lower_clip(settings: TrainingConfig) -> str:
    clip = settings.max_grad_norm
    return f"training.max_grad_norm: {number(0.3 if clip > 0.3 else clip / 3)}"


def _shorter(usual_tokens: float) -> str:
    """A length that spares four times the usual row, in steps of 64."""
    return f"data.max_length: {64 * math.ceil(4 * usual_tokens / 64)}"
