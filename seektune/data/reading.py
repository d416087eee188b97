"""Files read whole and strictly, for a few lines of Python: the first bad record is an error."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from seektune.config.data import SourceConfig
from seektune.data.formats.convert import FORMATS, LOOKS_AHEAD, converter, detect, dress, label_of
from seektune.data.formats.dataset_info import expand
from seektune.data.records import Bad, Record
from seektune.data.sources.files import read
from seektune.errors import DataError
from seektune.types import Example

LOOKED_AT = 20
"""Records of a file from which its format is told."""


def read_records(
    paths: Path | str | Sequence[Path | str],
    *,
    format: str = "auto",
    prompt_prefix: str = "",
    labels: Sequence[str] | None = None,
) -> list[Example]:
    """Read files of records into examples, in order.

    `format` is detected for each file unless named. `prompt_prefix` opens every user turn. `labels` are the
    candidate answers of a classification, in order; without them they are each record's own `options`, or
    else the labels that occur in these files, sorted. Raises DataError naming file:line for a record that
    does not fit or is a preference, and for files without any record.
    """
    if format != "auto" and format not in FORMATS:
        raise DataError(f"unknown data format {format!r}; known: auto, {', '.join(FORMATS)}")
    files = [paths] if isinstance(paths, str | Path) else list(paths)
    sources = [expand(SourceConfig.model_validate({"path": str(path), "format": format})) for path in files]
    records = [_records(source) for source in sources]
    names = [
        detect(islice(found, LOOKED_AT), source.format, source.columns)
        for source, found in zip(sources, records, strict=True)
    ]
    seen = [
        [label_of(record, source, name) for record in found] if name in LOOKS_AHEAD else []
        for source, name, found in zip(sources, names, records, strict=True)
    ]
    known = labels or sorted(
        {label for name, own in zip(names, seen, strict=True) if name == "classification" for label in own}
    )
    examples: list[Example] = []
    for source, name, own, found in zip(sources, names, seen, records, strict=True):
        convert = converter(source, name, own if name == "medmcqa" else tuple(known))
        for record in found:
            row = dress(convert(record), prompt_prefix)
            if not isinstance(row, Example):
                raise DataError(f"{record.row_id} is a preference ({name}), not an example to learn from")
            examples.append(row)
    return examples


def _records(source: SourceConfig) -> list[Record]:
    records: list[Record] = []
    for found in read(source):
        if isinstance(found, Bad):
            raise DataError(f"{found.file}:{found.line}: {found.reason}")
        records.append(found)
    if not records:
        raise DataError(f"{source.path} holds no records")
    return records
