"""Sources become rows: read, understood and cleaned, in their order, with an account of every file."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from seektune.config.data import DataConfig, SourceConfig
from seektune.data.cleaning.cleaner import Tally, cleaner
from seektune.data.documents.extraction import Leftover, extraction
from seektune.data.formats.convert import LOOKS_AHEAD, converter, detect, label_of, unread
from seektune.data.formats.dataset_info import expand
from seektune.data.ledger import EXAMPLES, Account, Ledger
from seektune.data.prepared import ROWS, RowTable, Writer
from seektune.data.records import Bad, Dropped, Record, escaped
from seektune.data.sources.files import describe, files_of, read
from seektune.errors import DataError
from seektune.types import Row

LOOKED_AT = 100
"""Records of a file from which its format and its unread columns are told."""

_PARTICULARS = re.compile(r"""'[^']*'|"[^"]*"|\d+|[^\s:]*:\d+(?=:)""")


@dataclass
class Gathered:
    """The rows of one split on disk, and whose they are."""

    rows: RowTable
    accounts: list[Account]
    starts: list[int]  # of each account: its first row

    def account_of(self, row: int) -> Account:
        """The account of the file that row came from."""
        return self.accounts[bisect_right(self.starts, row) - 1]


@dataclass
class Unpaired:
    """How much of the documents became no question-answer pair."""

    documents: int = 0
    characters: int = 0
    total: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, left: Leftover) -> None:
        """Count one document."""
        self.documents += 1
        self.characters += left.characters
        self.total += left.total
        if left.characters and len(self.examples) < EXAMPLES:
            self.examples.append(left.to_json())


@dataclass
class Gatherer:
    """What every source of a run goes through; `observe` sees each usable row in order."""

    config: DataConfig
    ledger: Ledger
    tally: Tally = field(default_factory=Tally)
    unpaired: Unpaired = field(default_factory=Unpaired)
    labels: tuple[str, ...] = ()

    def gather(
        self, split: str, sources: Sequence[SourceConfig], path: Path, observe: Callable[[Row], None]
    ) -> Gathered:
        """Write the usable rows of `sources` to `path`; the others go to the ledger.

        Raises DataError for a file in which no record has a known format.
        """
        sources = [part for source in sources for part in parts(source)]
        self.labels = self.labels or self.config.labels or classes(sources)
        accounts: list[Account] = []
        starts: list[int] = []
        count = 0
        with Writer(path, ROWS) as out:
            for source in sources:
                account, rows = self._open(split, source)
                accounts.append(account)
                starts.append(count)
                for row in rows:
                    out.add_row(row)
                    observe(row)
                    account.kept += 1
                    count += 1
        return Gathered(RowTable(path), accounts, starts)

    def _open(self, split: str, source: SourceConfig) -> tuple[Account, Iterator[Row]]:
        """The account of one file, filled as its rows are taken."""
        account = Account(split, source.path or f"hub:{source.hub}", source.format)
        if source.path is not None:
            facts = describe(Path(source.path), source.encoding)
            account.kind, account.encoding = facts.kind, facts.encoding or ""
        records = self._records(account, source)
        head = list(islice(records, LOOKED_AT))
        if not head:
            return account, iter(())
        account.format = detect(head, source.format, source.columns)
        for record in head:
            account.unread.update(unread(record.fields, account.format, source.columns))
        labels = self.labels
        if account.format == "medmcqa":
            labels = tuple(_labels(source, "medmcqa"))
        convert = converter(source, account.format, labels)
        return account, self._rows(account, chain(head, records), convert)

    def _records(self, account: Account, source: SourceConfig) -> Iterator[Record]:
        """The readable records; the ledger has the others, and documents without a pair."""
        for item in read(source):
            if isinstance(item, Bad):
                self.ledger.bad(account, item, kind_of(item.reason))
            elif source.format != "document":
                yield item
            else:
                yield from self._pieces(account, item)

    def _pieces(self, account: Account, document: Record) -> Iterator[Record]:
        try:
            found = extraction(document)
        except DataError as error:
            self._quarantine(account, document, error)
            return
        self.unpaired.add(found.leftover)
        if not found.pairs:
            self.ledger.drop(account, Dropped(document.row_id, "no question-answer pairs"))
        yield from found.pairs

    def _rows(
        self, account: Account, records: Iterator[Record], convert: Callable[[Record], Row]
    ) -> Iterator[Row]:
        clean = cleaner(self.config.cleaning)
        for record in records:
            try:
                row = convert(record)
            except DataError as error:
                self._quarantine(account, record, error)
                continue
            cleaned = clean(row)
            if cleaned.changes:
                self.tally.add(row.row_id, cleaned)
            if cleaned.row is None:
                self.ledger.drop(account, Dropped(row.row_id, cleaned.reason, cleaned.detail))
            else:
                yield cleaned.row

    def _quarantine(self, account: Account, record: Record, error: DataError) -> None:
        reason = str(error).removeprefix(record.row_id).lstrip(": ")
        raw = escaped(json.dumps(record.fields, ensure_ascii=False, default=str))
        self.ledger.bad(account, Bad(record.file, record.line, reason, raw), kind_of(reason))


def parts(source: SourceConfig) -> list[SourceConfig]:
    """One source per file; a dataset of the hub is one."""
    source = expand(source)
    if source.hub is not None:
        return [source]
    return [source.model_copy(update={"path": str(file)}) for file in files_of(source)]


def classes(files: Sequence[SourceConfig]) -> tuple[str, ...]:
    """The labels that occur in the classification files, sorted; none for other formats."""
    maybe = (file for file in files if file.format in ("auto", "classification"))
    return tuple(sorted({label for file in maybe for label in _labels(file, "classification")}))


def kind_of(reason: str) -> str:
    """A reason without its particulars, so that equal mistakes are counted together."""
    return _PARTICULARS.sub("…", reason)[:120]


def _labels(file: SourceConfig, name: str) -> Iterator[str]:
    assert name in LOOKS_AHEAD
    records = (item for item in read(file) if isinstance(item, Record))
    head = list(islice(records, LOOKED_AT))
    if _format_of(head, file) != name:
        return
    for record in chain(head, records):
        try:
            yield label_of(record, file, name)
        except DataError:
            continue  # it is quarantined when its turn comes


def _format_of(records: Sequence[Record], source: SourceConfig) -> str | None:
    try:
        return detect(records, source.format, source.columns)
    except DataError:
        return None
