"""`seektune generate`: one question, one streamed answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from seektune.generation.generate import stream
from seektune.recipes.adapted import open_adapted, opening
from seektune.types import Message


def run(
    model: str,
    prompt: str,
    *,
    adapters: Sequence[Path] = (),
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    console: Console | None = None,
) -> str:
    """Print the answer as it is made, and return it. The question is one user turn of a chat.

    A run folder's system prompt and prompt prefix are used as in training.
    """
    console = console or Console(highlight=False, markup=False)
    loaded = open_adapted(model, adapters)
    system, prefix = opening(model)
    pieces = []
    for piece in stream(
        loaded,
        [*system, Message("user", prefix + prompt)],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    ):
        pieces.append(piece)
        console.print(piece, end="", soft_wrap=True)
    console.print()
    return "".join(pieces)
