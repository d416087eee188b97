"""A request under way."""

from __future__ import annotations

from typing import Any

from seektune.generation.pages import Table
from seektune.generation.request import FinishReason, Request
from seektune.generation.streaming import TextStream


class Sequence:
    """Tokens so far, how many of them are in the cache and where, and what sampling and text need."""

    __slots__ = (
        "arrival",
        "cached",
        "computed",
        "finish_reason",
        "generator",
        "longest",
        "request",
        "sound",
        "state",
        "table",
        "text",
        "tokens",
    )

    def __init__(
        self, request: Request, longest: int, arrival: int = 0, text: TextStream | None = None
    ) -> None:
        self.request = request
        self.longest = longest  # tokens it may come to have
        self.arrival = arrival  # order of submission
        self.tokens = list(request.prompt)  # and the answer so far
        self.computed = 0  # leading tokens whose keys and values are in the cache
        self.sound = 0  # of them known to be finite, as logits that saw them were
        self.cached: int | None = None  # taken over from the prefix cache when first admitted
        self.table = Table(request.cache_key)
        self.text = text  # None where there is no tokenizer
        self.state: Any = None  # what the runner keeps for it besides the pages
        self.generator: Any = None  # torch.Generator, made when first needed
        self.finish_reason: FinishReason | None = None

    @property
    def pending(self) -> int:
        """Tokens still to compute before the next one can be chosen."""
        return len(self.tokens) - self.computed

    @property
    def answered(self) -> int:
        """Tokens of the answer so far."""
        return len(self.tokens) - len(self.request.prompt)
