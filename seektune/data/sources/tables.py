"""CSV, Parquet and Arrow tables as records; what a damaged place costs is counted row by row."""

from __future__ import annotations

import re
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from seektune.data.records import Bad, Record, escaped
from seektune.data.sources.decoding import blocks, compression_of, decoded, lines
from seektune.errors import DataError

_BATCH = 1024  # rows that are unpacked at a time
_BUFFER = 1 << 20  # bytes of a column read at a time; unbuffered or buffered ahead, a whole row group is held
_TAIL = 1000  # lines searched for the end of a broken row
_LOOK_AHEAD = 1 << 24  # characters within which a quote has to be closed
_OPEN = "a quote is never closed"
_FIELD = r'"([^"]*+(?:""[^"]*+)*+)(?:"(?={0}|\Z)|(\Z)|("))|([^{0}]*+)'
_FIELDS = MappingProxyType({mark: re.compile(_FIELD.format(re.escape(mark))) for mark in ",;\t"})
_LONE_QUOTE = re.compile(r'(?<!")(?:"")*"(?!")')


@dataclass(slots=True)
class _Line:
    """One physical line of a CSV file and what is wrong with it."""

    number: int
    raw: bytes
    text: str
    reason: str


@dataclass(slots=True)
class _Lines:
    """Physical lines with a look ahead."""

    source: Iterator[_Line]
    ahead: deque[_Line] = field(default_factory=deque)

    def get(self, index: int) -> _Line | None:
        """The line that is `index` lines ahead, if there is one."""
        while len(self.ahead) <= index:
            line = next(self.source, None)
            if line is None:
                return None
            self.ahead.append(line)
        return self.ahead[index]


def read_csv(path: Path, encoding: str, tabs: bool = False) -> Iterator[Record | Bad]:
    """The rows of a CSV file whose first line names the columns; every value is text.

    The delimiter is a tab with `tabs`, else the commonest of `,` `;` and tab in the first line. A row with a
    broken line in it is one Bad; where a quote is never closed reading goes on at the next line. When the
    column names are unusable every row is Bad.
    """
    file = str(path)
    source = _Lines(
        _Line(number, raw, *_trusted(raw, encoding, torn)) for number, raw, torn in lines(path, encoding)
    )
    delimiter = "\t" if tabs else ""
    columns: list[str] | None = None
    fault = ""
    while (line := source.get(0)) is not None:
        if not line.reason and not line.text.strip(" \t\r" if columns is None else "\r"):
            source.ahead.popleft()
            continue
        delimiter = delimiter or max(",;\t", key=line.text.count)
        values, count, reason = _row(source, delimiter, len(columns or ()))
        raw = b"\n".join(source.ahead.popleft().raw for _ in range(count))
        if columns is None:
            columns = values
            reason = fault = _unusable(values, reason)
            if not fault:
                continue
        if reason or fault:
            yield Bad(file, line.number, fault or reason, escaped(raw))
        else:
            yield Record(file, line.number, dict(zip(columns, values, strict=True)))


def _trusted(raw: bytes, encoding: str, torn: str) -> tuple[str, str]:
    text, reason = decoded(raw, encoding)
    return text, torn or reason


def _unusable(columns: list[str], reason: str) -> str:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        reason = reason or f"{', '.join(map(repr, twice))} occurs twice"
    return f"the column names in the first line are unusable: {reason}" if reason else ""


def _row(source: _Lines, delimiter: str, width: int) -> tuple[list[str], int, str]:
    """(values, number of lines they take, reason) of the row that starts at the next line.

    `width` is the number of columns, 0 while unknown.
    """
    parts: list[str] = []
    values: list[str] = []
    reason, problem = "", _OPEN
    size = 0
    while problem == _OPEN and size < _LOOK_AHEAD and (line := source.get(len(parts))) is not None:
        parts.append(line.text)
        size += len(line.text)
        reason = reason or line.reason
        if len(parts) == 1 or _LONE_QUOTE.search(line.text):
            values, problem = _split("\n".join(parts).removesuffix("\r"), delimiter)
    if not problem and width and len(values) != width:
        problem = f"has {len(values)} columns where the first line names {width}"
    if not problem or (len(parts) == 1 and '"' not in parts[0]):
        return values, len(parts), reason or problem
    return values, 1 + _tail(source, delimiter), reason or problem


def _split(text: str, delimiter: str) -> tuple[list[str], str]:
    """(values, "") of a row, or (the values before it, what is wrong)."""
    if '"' not in text:
        return text.split(delimiter), ""
    values: list[str] = []
    at = 0
    while found := _FIELDS[delimiter].match(text, at):
        quoted, unclosed, junk, plain = found.groups()
        if unclosed is not None or junk:
            return values, "has text after a closing quote" if junk else _OPEN
        values.append(plain if quoted is None else quoted.replace('""', '"'))
        at = found.end() + 1
        if at > len(text):
            break
    return values, ""


def _tail(source: _Lines, delimiter: str) -> int:
    """How many lines after a broken one belong to its row: up to a quote that closes but never opened."""
    index = 0
    while index < _TAIL and (line := source.get(index + 1)) is not None:
        index += 1
        if quote := _LONE_QUOTE.search(line.text):
            if quote.start() == 0 or line.text[quote.start() - 1] == delimiter:
                return 0
            end, rest = quote.end(), line.text[quote.end() + 1 :]
            if line.text[end : end + 1] in ("", "\r", delimiter) and _split(rest, delimiter)[1] != _OPEN:
                return index
    return 0


def read_parquet(path: Path) -> Iterator[Record | Bad]:
    """The rows of a Parquet file, `group` and row from 1; each row of a damaged row group is one Bad."""
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise _needs_pyarrow(path) from None
    file = str(path)
    with _plain(path) as (stream, torn):
        size = stream.seek(0, 2)
        try:
            table = parquet.ParquetFile(
                stream, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True
            )
            rows = [table.metadata.row_group(index).num_rows for index in range(table.num_row_groups)]
        except Exception as error:  # damaged bytes fail in a dozen ways
            yield Bad(file, 1, torn or f"not a whole Parquet file: {_short(error)}", "")
            return
        if torn:
            yield Bad(file, 1, torn, "")
        for group, expected in enumerate(rows):
            row = 0
            try:
                for batch in table.iter_batches(_BATCH, row_groups=[group]):
                    yield from _unpacked(batch, file, group + 1, row)
                    row += batch.num_rows
            except Exception as error:
                reason = f"row group {group + 1} is damaged: {_short(error)}"
                for lost in range(row, min(expected, row + size)):  # a damaged count may be absurd
                    yield Bad(file, lost + 1, reason, "")


def read_arrow(path: Path) -> Iterator[Record | Bad]:
    """The rows of an Arrow file or stream, `group` (batch) and row from 1; one Bad where it breaks off.

    The line of that Bad is the number of the first row, in the whole file, that is lost.
    """
    try:
        import pyarrow
    except ImportError:
        raise _needs_pyarrow(path) from None
    file = str(path)
    total = 0
    with _plain(path) as (stream, torn):
        try:
            source = pyarrow.memory_map(stream.name) if stream.name == file else stream
            is_file = source.read(8).startswith(b"ARROW1")
            source.seek(8 if is_file else 0)  # a file is a stream between two marks
            for group, batch in enumerate(pyarrow.ipc.open_stream(source), 1):
                for row in range(0, batch.num_rows, _BATCH):
                    yield from _unpacked(batch.slice(row, _BATCH), file, group, row)
                total += batch.num_rows
        except Exception as error:
            torn = torn or f"the file is damaged or cut off here: {_short(error)}"
        if torn:
            yield Bad(file, total + 1, torn, "")


def _unpacked(batch: Any, file: str, group: int, row: int) -> Iterator[Record | Bad]:
    """The rows of a batch; where one holds damaged offsets or text, each is tried by itself."""
    try:
        batch.validate(full=True)
        found = batch.to_pylist()
    except Exception as error:
        if batch.num_rows == 1:
            yield Bad(file, row + 1, f"damaged in group {group}: {_short(error)}", "")
            return
        for index in range(batch.num_rows):
            yield from _unpacked(batch.slice(index, 1), file, group, row + index)
        return
    for index, fields in enumerate(found, row + 1):
        yield Record(file, index, fields, group)


@contextmanager
def _plain(path: Path) -> Iterator[tuple[Any, str]]:
    """The file, decompressed to a temporary one where need be, and why its archive ends early if it does."""
    if compression_of(path) is None:
        with path.open("rb") as stream:
            yield stream, ""
        return
    torn = ""
    with tempfile.NamedTemporaryFile() as copy:
        try:
            for block in blocks(path):
                copy.write(block)
        except DataError as error:
            torn = str(error)
        copy.seek(0)
        yield copy, torn


def _needs_pyarrow(path: Path) -> DataError:
    return DataError(f"reading {path} needs pyarrow: pip install 'seektune[data]'")


def _short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
