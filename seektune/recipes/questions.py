"""Rows of a file of questions → what the engine is asked, or why not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seektune.data.records import Bad, Record, escaped
from seektune.data.sources.files import describe, read_file
from seektune.errors import ConfigError, DataError, SeektuneError
from seektune.generation.request import Sampling
from seektune.serving.body import read
from seektune.serving.protocol import ChatBody
from seektune.types import Message

_NOT_WRITTEN = (("n", 1), ("stream", False), ("logprobs", False))
"""Fields that ask for what an answer's line does not hold, and the values that do not."""


@dataclass(frozen=True)
class Question:
    """A row as the conversation to answer, who answers it, and how."""

    record: Record
    id: str | int | None
    model: str  # "" is whoever answers by default
    messages: tuple[Message, ...]
    sampling: Sampling

    @property
    def line(self) -> int:
        """Its line in the file."""
        return self.record.line


@dataclass(frozen=True)
class Asking:
    """What holds for rows that do not say otherwise; with a prompt goes what stood before it in training."""

    sampling: Sampling
    system: Sequence[Message] = ()
    prefix: str = ""


def read_questions(path: Path, asking: Asking) -> Iterator[Question | Bad]:
    """The rows of a file of JSON lines, compressed or not, one at a time. DataError for other files."""
    facts = describe(path)
    if facts.kind != "jsonl":
        raise DataError(f'{path} is {facts.kind}: questions are JSON lines, such as {{"prompt": "…"}}')
    for record in read_file(facts):
        if isinstance(record, Bad):
            yield record
            continue
        try:
            yield _question(record, asking)
        except SeektuneError as error:
            yield unanswered(record, str(error))


def unanswered(record: Record, reason: str) -> Bad:
    """A row that can be read and has no answer."""
    return Bad(record.file, record.line, reason, escaped(json.dumps(record.fields, ensure_ascii=False)))


def _question(record: Record, asking: Asking) -> Question:
    """A body of OpenAI's chats, `model` not needed; or a `prompt`, asked as on the command line."""
    fields = {key: value for key, value in record.fields.items() if value is not None}
    name = fields.pop("id", None)
    if isinstance(name, bool) or not isinstance(name, str | int | None):
        raise ConfigError("id must be a string or an integer")
    if ("prompt" in fields) == ("messages" in fields):
        has = ", ".join(fields) or "nothing"
        raise ConfigError(f"a row has a prompt or messages, and not both; this one has {has}")
    opening: Sequence[Message] = ()
    if "prompt" in fields:
        prompt = fields.pop("prompt")
        if not isinstance(prompt, str):
            raise ConfigError("prompt must be a string")
        opening = asking.system
        fields["messages"] = [{"role": "user", "content": asking.prefix + prompt}]
    default = asking.sampling
    seed = None if default.seed is None else default.seed + record.line
    body = read(ChatBody, {"model": "", "temperature": default.temperature, "seed": seed} | fields)
    for field, neutral in _NOT_WRITTEN:
        if getattr(body, field) != neutral:
            raise ConfigError(f"{field} is not supported: a row has one answer, as text")
    messages = (*opening, *body.conversation)
    return Question(record, name, body.model, messages, body.asked(default.max_tokens))


def hashed(value: Any) -> str:
    """16 hex digits of the hash of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
