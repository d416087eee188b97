"""Files of records, each with the place it came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seektune.errors import DataError


@dataclass(frozen=True, slots=True)
class Record:
    """One JSON object of a data file, not yet understood; `line` counts from 1."""

    file: str
    line: int
    fields: dict[str, Any]

    @property
    def row_id(self) -> str:
        """`file:line`, the name of this row in every message."""
        return f"{self.file}:{self.line}"


def read_jsonl(path: Path | str) -> Iterator[Record]:
    """The records of a UTF-8 file of JSON lines, in order; blank lines are skipped.

    Raises DataError naming file:line for anything else than one JSON object a line.
    """
    try:
        with Path(path).open("rb") as lines:
            for number, raw in enumerate(lines, start=1):
                if raw.strip():
                    yield Record(str(path), number, _object(raw, f"{path}:{number}"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def _object(raw: bytes, place: str) -> dict[str, Any]:
    try:
        value = json.loads(raw.decode("utf-8-sig"))
        if b"\\u" in raw:  # an escaped half of a surrogate pair parses, but no tokenizer takes it
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError as error:
        raise DataError(f"{place} is not valid UTF-8 text: {error}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{place} is not valid JSON: {error.msg} at column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place} is not usable JSON: {error}") from None
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise DataError(f"{place} holds a JSON {kind}; each line must be one JSON object {{...}}")
    return value
