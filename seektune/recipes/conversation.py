"""A conversation with a model: its turns, who answers next, and the engine that answers."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from seektune.adapters.attach import active_adapter, adapters
from seektune.data.templates.render import prompt_ids
from seektune.errors import ConfigError, ModelError
from seektune.generation.engine import Engine
from seektune.generation.request import Output, Request, Sampling
from seektune.models.load import Loaded
from seektune.types import Message

BASE = "base"
"""What the model without an adapter is called."""


@dataclass
class Conversation:
    """One engine answers all turns, so what earlier ones left in its cache is not computed again."""

    loaded: Loaded
    sampling: Sampling
    system: str = ""
    prefix: str = ""  # of every question, as in training
    turns: list[Message] = field(default_factory=list)  # questions and answers in turn

    def __post_init__(self) -> None:
        if BASE in self.adapters:
            raise ConfigError(f"an adapter is called {BASE}, as the model without one is: rename its folder")
        self.answering = active_adapter(self.loaded) or BASE
        self.engine = Engine(self.loaded)

    @property
    def adapters(self) -> tuple[str, ...]:
        """Those that may answer, besides the base."""
        return adapters(self.loaded)

    def switch(self, name: str) -> None:
        """Who answers from now on; the turns stay. Raises ConfigError for an unknown name."""
        known = (*self.adapters, BASE)
        if name not in known:
            raise ConfigError(f"there is no adapter {name!r}; there is {', '.join(known)}")
        self.answering = name

    def ask(self, question: str) -> Generator[str, None, None]:
        """The answer in pieces, as they come; closed early, it stops there.

        The turns keep question and answer as far as it came, and nothing where nothing was said. Raises
        ModelError where the conversation has outgrown the model's context.
        """
        asked = Message("user", self.prefix + question)
        answer = ""
        try:
            with closing(self._steps([*self.turns, asked], [self.answering])) as steps:
                for outputs in steps:
                    piece = "".join(output.text for output in outputs)
                    answer += piece
                    yield piece
        finally:
            if answer:
                self.turns += [asked, Message("assistant", answer)]

    def compare(self, question: str = "") -> Generator[dict[str, str], None, None]:
        """What base and every adapter have said so far, all answering at once; the turns stay as they are.

        Without a question, the last one is put again. Raises ConfigError where there is nothing to compare.
        """
        if not self.adapters:
            raise ConfigError("there is no adapter to compare the base with: start with --adapter FOLDER")
        if not question and not self.turns:
            raise ConfigError("nothing was asked yet: /compare TEXT asks and compares")
        turns = [*self.turns, Message("user", self.prefix + question)] if question else self.turns[:-1]
        said = dict.fromkeys((BASE, *self.adapters), "")
        with closing(self._steps(turns, list(said))) as steps:
            for outputs in steps:
                for output in outputs:
                    said[output.id] += output.text
                yield said

    def _steps(self, turns: Sequence[Message], names: Sequence[str]) -> Generator[list[Output], None, None]:
        """Outputs of each step until all of `names` have answered, or the generator is closed."""
        opening = [Message("system", self.system)] if self.system else []
        prompt = tuple(prompt_ids(self.loaded, [*opening, *turns]))
        try:
            for name in names:
                adapter = None if name == BASE else name
                self.engine.submit(Request(id=name, prompt=prompt, sampling=self.sampling, adapter=adapter))
            while self.engine.has_work:
                outputs = self.engine.step()
                yield outputs
                if error := next((output.error for output in outputs if output.error), None):
                    raise ModelError(error)
        finally:
            if [name for name in names if self.engine.cancel(name)]:
                self.engine.step()  # hands out the last outputs of what was cancelled
