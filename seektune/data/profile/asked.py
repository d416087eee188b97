"""A sample of what users will ask, to compare the training rows with."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from seektune.config.data import SourceConfig
from seektune.data.formats.convert import converter, detect
from seektune.data.gather import parts
from seektune.data.profile.counts import prompt_text
from seektune.data.records import Record
from seektune.data.sources.files import read
from seektune.errors import DataError

MOST = 20_000
"""Records read of each file."""

PROMPTS = ("prompt", "question", "text", "instruction", "query", "input")
"""Columns that hold a prompt where there is no answer to make it a training record."""


def asked_texts(source: SourceConfig) -> list[str]:
    """The prompts of a source: of records in any format, or with the prompt alone.

    Records without either are passed over. Raises DataError when none is left.
    """
    found = [text for file in parts(source) for text in _asked_in(file) if text.strip()]
    if not found:
        columns = ", ".join(PROMPTS)
        raise DataError(
            f"{source.path or source.hub} holds no prompts: records of a known format, or {columns}"
        )
    return found


def _asked_in(file: SourceConfig) -> Iterator[str]:
    records = [item for item in islice(read(file), MOST) if isinstance(item, Record)]
    try:
        convert = converter(file, detect(records[:100], file.format, file.columns))
    except DataError:
        convert = None
    for record in records:
        alone = next((record.fields[key] for key in PROMPTS if isinstance(record.fields.get(key), str)), "")
        try:
            yield prompt_text(convert(record)) if convert else alone
        except DataError:
            yield alone
