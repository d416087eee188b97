"""What the server counts, in Prometheus' text form; one registry per server, none for the process."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from seektune.generation.engine import Stats
from seektune.generation.request import Output
from seektune.serving.outbox import Outbox

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FINE = tuple(1e-5 * 1.5**power for power in range(36))  # to 14 s


class Metrics:
    """Counters per served name, and where the engine stands when they are asked for."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        by_model = ("model",)
        self._requests = Counter(
            "seektune_requests", "Answers by how they ended", ("model", "outcome"), registry=registry
        )
        self._refused = Counter(
            "seektune_refused", "Calls refused, by status", ("status",), registry=registry
        )
        self._prompt = Counter("seektune_prompt_tokens", "Tokens of prompts", by_model, registry=registry)
        self._cached = Counter(
            "seektune_cached_tokens",
            "Tokens of prompts found in the prefix cache",
            by_model,
            registry=registry,
        )
        self._generated = Counter(
            "seektune_generated_tokens", "Tokens of answers", by_model, registry=registry
        )
        self._first = Histogram(
            "seektune_time_to_first_token_seconds",
            "From submission to the first token",
            by_model,
            buckets=_SECONDS,
            registry=registry,
        )
        self._whole = Histogram(
            "seektune_answer_seconds",
            "From submission to the last token",
            by_model,
            buckets=_SECONDS,
            registry=registry,
        )
        self._steps = Histogram(
            "seektune_step_seconds", "One step of the engine", buckets=_FINE, registry=registry
        )
        self._swaps = Histogram(
            "seektune_swap_seconds",
            "What publishing or retiring an adapter kept the engine from its next step",
            buckets=_FINE,
            registry=registry,
        )
        self._batch = Gauge("seektune_batch_size", "Answers that the last step moved on", registry=registry)

    def watch(self, stats: Callable[[], Stats]) -> None:
        """Report where the engine stands: `stats` is called whenever the metrics are asked for."""
        for name, what in (
            ("waiting", "Answers that wait for the engine"),
            ("running", "Answers under way"),
            ("used_pages", "Pages of keys and values in use"),
            ("num_pages", "Pages of keys and values there are"),
            ("preemptions", "Answers that gave up their pages and were computed again, since the start"),
        ):
            gauge = Gauge(f"seektune_{name}", what, registry=self._registry)
            gauge.set_function(partial(_number, stats, name))

    def refused(self, status: int) -> None:
        """Count a call that was refused."""
        self._refused.labels(str(status)).inc()

    def stepped(self, seconds: float, size: int) -> None:
        """Count a step of the engine that moved `size` answers on."""
        self._steps.observe(seconds)
        self._batch.set(size)

    def swapped(self, seconds: float) -> None:
        """Count an adapter published or retired."""
        self._swaps.observe(seconds)

    def generated(self, outbox: Outbox, output: Output) -> None:
        """Count the tokens of an output."""
        self._generated.labels(outbox.model).inc(len(output.tokens))
        if not outbox.answered:
            outbox.answered = True
            self._first.labels(outbox.model).observe(time.monotonic() - outbox.began)
            self._prompt.labels(outbox.model).inc(output.prompt_tokens)
            self._cached.labels(outbox.model).inc(output.cached_tokens)

    def answered(self, outbox: Outbox, output: Output) -> None:
        """Count an answer that came to its end."""
        self._whole.labels(outbox.model).observe(time.monotonic() - outbox.began)
        self.ended(outbox.model, output.finish_reason or "")

    def ended(self, model: str, outcome: str) -> None:
        """Count an answer by how it ended."""
        self._requests.labels(model, outcome).inc()

    def text(self) -> bytes:
        """All of it, in Prometheus' text form."""
        return generate_latest(self._registry)


def _number(stats: Callable[[], Stats], name: str) -> float:
    return float(getattr(stats(), name))
