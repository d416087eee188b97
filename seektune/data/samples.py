"""Rows become samples: dressed, tokenised, checked and fitted to the length limit, block by block."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seektune.config.data import DataConfig
from seektune.data.formats.convert import dress
from seektune.data.gather import Gathered, kind_of
from seektune.data.ledger import Ledger, Reason
from seektune.data.prepared import ROWS, SAMPLES, Writer, dump_row, load_row
from seektune.data.profile.counts import Profile
from seektune.data.records import Bad, Dropped, escaped
from seektune.data.templates.lengths import fit, frame_of
from seektune.data.templates.lint import linter
from seektune.data.templates.render import sampler
from seektune.errors import DataError
from seektune.types import IGNORE, Chat, Example, Row, Sample

BLOCK = 256
"""Rows tokenised at once."""

Sides = dict[str, Example]
"""What is tokenised of one row: an example as `chosen`, a pair's two answers each to the same prompt."""


@dataclass
class Tokeniser:
    """Turns the chosen rows of a split into files of rows and of samples."""

    config: DataConfig
    chat: Chat
    ledger: Ledger
    lints: dict[str, Reason] = field(default_factory=lambda: defaultdict(Reason))

    def __post_init__(self) -> None:
        self._sample = sampler(self.chat, self.config.train_turns)
        self._lint = linter(self.chat)
        self._frame = frame_of(self.chat)

    def run(
        self,
        gathered: Gathered,
        numbers: NDArray[np.int64],
        rows_path: Path,
        samples_path: Path,
        profile: Profile,
    ) -> dict[str, int]:
        """Write what the rows of these numbers become; the totals of samples, tokens and trained tokens.

        A row the template cannot say is quarantined; one that does not fit the length is dropped. `profile`
        sees each row that is written, without prefix and system prompt.
        """
        totals = {"samples": 0, "tokens": 0, "trained_tokens": 0}
        with Writer(rows_path, ROWS) as rows, Writer(samples_path, SAMPLES) as samples:
            for number, plain, dumped, row, made in self._made(gathered, numbers):
                fitted = self._fitted(gathered, number, row, made)
                if fitted is None:
                    continue
                rows.add(row.row_id, dumped if row is plain else dump_row(row))
                tokens = trained = 0
                for side, sample in fitted:
                    trained += samples.add_sample(sample, side)
                    tokens += len(sample)
                totals["samples"] += len(fitted)
                totals["tokens"] += tokens
                totals["trained_tokens"] += trained
                profile.add(plain, tokens, trained)
        return totals

    def _made(
        self, gathered: Gathered, numbers: NDArray[np.int64]
    ) -> Iterator[tuple[int, Row, str, Row, dict[str, Sample | DataError]]]:
        """(number, row, the same as JSON, dressed row, its samples by side)."""
        for start in range(0, len(numbers), BLOCK):
            block = numbers[start : start + BLOCK]
            ids, dumped = zip(*gathered.rows.dumped(block), strict=True)
            plain = [load_row(text, row_id) for row_id, text in zip(ids, dumped, strict=True)]
            dressed = [dress(row, self.config.prompt_prefix, self.config.system_prompt) for row in plain]
            sides = [sides_of(row) for row in dressed]
            made = iter(self._sample([example for each in sides for example in each.values()]))
            for number, row, text, clad, each in zip(
                block.tolist(), plain, dumped, dressed, sides, strict=True
            ):
                yield number, row, text, clad, {side: next(made) for side in each}

    def _fitted(
        self, gathered: Gathered, number: int, row: Row, made: dict[str, Sample | DataError]
    ) -> list[tuple[str, Sample]] | None:
        """The samples of a row by side; None where the ledger has it instead."""
        account = gathered.account_of(number)
        if row.images:
            gone = Dropped(row.row_id, "images", "images are not trained on yet")
            self.ledger.drop(account, gone, was_kept=True)
            return None
        found: list[tuple[str, Sample]] = []
        for side, sample in made.items():
            if isinstance(sample, DataError):
                reason = str(sample).removeprefix(row.row_id).lstrip(": ")
                line = int(row.row_id.rpartition(":")[2])
                bad = Bad(account.file, line, reason, escaped(dump_row(row)))
                self.ledger.bad(account, bad, kind_of(reason), was_kept=True)
                return None
            for name in self._lint(sides_of(row)[side], sample):
                self.lints[name].add({"row": row.row_id})
            parts = fit(sample, self.config.max_length, self.config.too_long, self._frame)
            if isinstance(parts, Dropped):
                self.ledger.drop(account, parts, was_kept=True)
                return None
            found += [(side, part) for part in parts]
        return found


def sides_of(row: Row) -> Sides:
    """The examples to tokenise of a row."""
    if isinstance(row, Example):
        return {"chosen": row}
    answers = {"chosen": row.chosen, "rejected": row.rejected}
    return {
        side: Example((*row.prompt, answer), row.row_id, tools=row.tools, images=row.images)
        for side, answer in answers.items()
        if answer is not None
    }


def shown(chat: Chat, sample: Sample) -> list[tuple[str, float]]:
    """A sample as readable pieces with the weight of each: tokens, joined where one alone is no character."""
    tokens = [*np.asarray(sample.input_ids).tolist()]
    targets = np.asarray(sample.targets)
    weights = np.where(targets != IGNORE, np.broadcast_to(sample.weight, len(tokens)), 0.0).tolist()
    ids = [*tokens, int(targets[-1])] if targets[-1] != IGNORE else tokens
    pieces: list[tuple[str, float]] = []
    waiting: list[int] = []
    for token, weight in zip(ids, [0.0, *weights], strict=False):
        waiting.append(token)
        text = chat.tokenizer.decode(waiting)
        if "\ufffd" not in text:
            pieces.append((text, weight))
            waiting = []
    return pieces + ([(chat.tokenizer.decode(waiting), weights[-1])] if waiting else [])


def marked(pieces: Sequence[tuple[str, float]]) -> str:
    """The pieces of `shown` as text, what is trained between ⟦ and ⟧."""
    text, inside = "", False
    for piece, weight in pieces:
        if bool(weight) != inside:
            inside = not inside
            text += "⟦" if inside else "⟧"
        text += piece
    return text + ("⟧" if inside else "")
