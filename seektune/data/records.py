"""What comes out of a file: records with their place, and what could not be used, with its reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

RAW_BYTES = 2000
"""Most of a bad record that is kept to look at."""


@dataclass(frozen=True, slots=True)
class Record:
    """One object of a data file, not yet understood.

    `line` counts from 1; in Parquet and Arrow it is the row within its row group or batch `group`.
    """

    file: str
    line: int
    fields: dict[str, Any]
    group: int | None = None

    @property
    def row_id(self) -> str:
        """`file:line`, the name of this row in every message."""
        group = "" if self.group is None else f"{self.group}:"
        return f"{self.file}:{group}{self.line}"


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that is unreadable or invalid, for the quarantine; `raw` is `escaped`."""

    file: str
    line: int
    reason: str
    raw: str

    def to_json(self) -> dict[str, Any]:
        """A line of `quarantine.jsonl`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A good record that a policy leaves out; `detail` says more, such as the row it repeats."""

    row_id: str
    reason: str
    detail: str = ""

    def to_json(self) -> dict[str, Any]:
        """A line of `dropped.jsonl`."""
        return asdict(self)


def escaped(raw: bytes | str) -> str:
    """The start of a bad record as printable ASCII: everything else backslash-escaped, 2 kB at most."""
    if isinstance(raw, bytes):
        raw = raw[:RAW_BYTES].decode("utf-8", "backslashreplace")
    return raw[:RAW_BYTES].encode("ascii", "backslashreplace").decode("ascii")[:RAW_BYTES]
