"""Questions of a file → answers, many at a time and a few in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from seektune.adapters.slots import Staged
from seektune.config.engine import EngineConfig
from seektune.data.records import Bad
from seektune.data.templates.render import prompt_ids
from seektune.errors import ConfigError, SeektuneError
from seektune.generation.engine import Engine
from seektune.generation.request import Output, Request
from seektune.recipes.adapted import Resident
from seektune.recipes.questions import Question, unanswered
from seektune.serving.answers import usage
from seektune.serving.served import base_name


@dataclass(frozen=True)
class Answer:
    """A whole answer; `model` is the base, or the adapter with its version."""

    question: Question
    model: str
    text: str
    last: Output

    def to_json(self) -> dict[str, Any]:
        """What a line of answers says."""
        return {
            "id": self.question.id,
            "model": self.model,
            "text": self.text,
            "finish_reason": self.last.finish_reason,
            "usage": usage([self.last], 1),
        }


def answered(resident: Resident, rows: Iterator[Question | Bad]) -> Iterator[Answer | Bad]:
    """The answers in the order in which they end; a question that cannot be answered becomes a bad row.

    Twice as many are taken up as are computed together, so that the engine always has enough.
    """
    config = EngineConfig()
    engine = Engine(resident.loaded, resident.slots, config=config)
    asked: dict[str, tuple[Question, str]] = {}
    texts: dict[str, str] = {}
    while True:
        taken = list(islice(rows, 2 * config.max_num_seqs - len(asked)))
        for row in taken:
            if isinstance(row, Bad):
                yield row
                continue
            try:
                staged = _staged(resident, row.model)
                engine.submit(_request(resident, row, staged))
            except SeektuneError as error:
                yield unanswered(row.record, str(error))
            else:
                asked[str(row.line)] = row, staged.key if staged else base_name(resident.loaded)
                texts[str(row.line)] = ""
        if not taken and not asked:
            return
        for output in engine.step():
            texts[output.id] += output.text
            if output.finish_reason is None:
                continue
            (question, model), text = asked.pop(output.id), texts.pop(output.id)
            if output.error is not None:
                yield unanswered(question.record, output.error)
            else:
                yield Answer(question, model, text, output)


def _request(resident: Resident, question: Question, staged: Staged | None) -> Request:
    return Request(
        id=str(question.line),
        prompt=tuple(prompt_ids(resident.loaded, question.messages)),
        sampling=question.sampling,
        adapter=staged.key if staged else None,
        cache_key=staged.content_hash if staged else "",
    )


def _staged(resident: Resident, model: str) -> Staged | None:
    """The adapter that a row's `model` names, without one the last; None is the base."""
    adapters, base = resident.adapters, base_name(resident.loaded)
    if not model:
        return [*adapters.values()][-1] if adapters else None
    if model != base and model not in adapters:
        raise ConfigError(f"model {model!r} is not here; here are {', '.join((*adapters, base))}")
    return adapters.get(model)
