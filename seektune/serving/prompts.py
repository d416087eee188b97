"""What callers send → rows of tokens, away from the loop, and never one that the model cannot take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from seektune.data.templates.render import prompt_ids
from seektune.errors import ModelError
from seektune.generation.generate import encode_prompt
from seektune.models.load import Loaded
from seektune.serving.refusal import Refusal
from seektune.types import Message

T = TypeVar("T")


class Prompts:
    """Reads prompts for one model.

    `context` is how many tokens prompt and answer may have together, `most` how many of them a prompt may.
    """

    def __init__(self, loaded: Loaded, context: int, most: int | None = None) -> None:
        if loaded.tokenizer is None:
            raise ModelError(
                f"{loaded.source} has no tokenizer files, so it cannot be served: add them to it"
            )
        self._loaded, self._most = loaded, min(most or context, context - 1)
        self._limit = (
            f"at most {self._most:,} are taken here"
            if self._most < context - 1
            else f"with the answer at most {context:,} are taken"
        )
        self._letters = self._most * max(map(len, loaded.tokenizer.get_vocab()))
        # One thread: a tokenizer is not made for several.
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="encode")

    async def conversation(self, turns: Sequence[Message], name: str) -> list[int]:
        """The tokens of a conversation to answer. Raises Refusal naming `name` where they are too many."""
        self._check_letters(sum(len(turn.content) for turn in turns), name)
        return self.checked(await self._encoded(lambda: prompt_ids(self._loaded, turns)), name)

    async def text(self, text: str, name: str) -> list[int]:
        """The tokens of a text to continue. Raises Refusal naming `name` where they are too many."""
        self._check_letters(len(text), name)
        return self.checked(await self._encoded(lambda: encode_prompt(self._loaded, text)), name)

    def checked(self, ids: list[int], name: str) -> list[int]:
        """The row itself. Raises Refusal naming `name` where it is too long."""
        if len(ids) > self._most:
            raise Refusal(
                f"{name} has {len(ids):,} tokens: {self._limit}", param=name, code="context_length_exceeded"
            )
        return ids

    def close(self) -> None:
        """End the thread that reads."""
        self._encoder.shutdown(wait=False, cancel_futures=True)

    async def _encoded(self, encode: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._encoder, encode)

    def _check_letters(self, count: int, name: str) -> None:
        if count > self._letters:  # no row of the longest tokens is this long: not worth encoding
            raise Refusal(
                f"{name} has {count:,} characters: more than {self._most:,} tokens hold",
                param=name,
                code="context_length_exceeded",
            )
