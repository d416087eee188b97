"""What became of every record: kept, quarantined or dropped, with its reason, and nothing lost."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from seektune.data.records import Bad, Dropped
from seektune.errors import DataError

EXAMPLES = 3
"""Records shown of each reason."""


@dataclass
class Account:
    """One source's records."""

    split: str
    file: str
    format: str = ""
    encoding: str = ""
    kind: str = ""
    kept: int = 0
    quarantined: int = 0
    dropped: int = 0
    unread: set[str] = field(default_factory=set)  # columns nothing reads

    @property
    def total(self) -> int:
        """Every record that was there."""
        return self.kept + self.quarantined + self.dropped

    def to_json(self) -> dict[str, Any]:
        """An entry of `sources` in report.json."""
        return {
            "split": self.split, "file": self.file, "format": self.format, "encoding": self.encoding,
            "kind": self.kind, "total": self.total, "kept": self.kept, "quarantined": self.quarantined,
            "dropped": self.dropped, "unread": sorted(self.unread),
        }  # fmt: skip


@dataclass
class Reason:
    """How often a reason was given, and for which records first."""

    count: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)

    def add(self, example: dict[str, Any]) -> None:
        """Count one more record."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)

    def to_json(self) -> dict[str, Any]:
        """An entry of report.json."""
        return {"count": self.count, "examples": self.examples}


class Ledger:
    """Writes `quarantine.jsonl` and `dropped.jsonl` as records fall out, and counts them all."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._quarantine, self._dropped = (
            (folder / name).open("w", encoding="utf-8") for name in ("quarantine.jsonl", "dropped.jsonl")
        )
        self.quarantine: dict[str, Reason] = defaultdict(Reason)
        self.drops: dict[str, Reason] = defaultdict(Reason)

    def bad(self, account: Account, bad: Bad, kind: str, *, was_kept: bool = False) -> None:
        """Quarantine a record; `kind` is its reason without the particulars."""
        account.kept -= was_kept
        account.quarantined += 1
        _write(self._quarantine, bad.to_json())
        self.quarantine[kind].add({"file": bad.file, "line": bad.line, "reason": bad.reason})

    def drop(self, account: Account, dropped: Dropped, *, was_kept: bool = False) -> None:
        """Drop a record by policy."""
        account.kept -= was_kept
        account.dropped += 1
        _write(self._dropped, dropped.to_json())
        self.drops[dropped.reason].add({"row": dropped.row_id, "detail": dropped.detail})

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._quarantine.close()
        self._dropped.close()


def check_quality(accounts: list[Account], ledger: Ledger, max_bad_fraction: float, folder: Path) -> None:
    """Raise DataError with the counts when more than `max_bad_fraction`, and at least 10, are unusable."""
    bad, total = sum(a.quarantined for a in accounts), sum(a.total for a in accounts)
    if bad < 10 or bad <= max_bad_fraction * total:
        return
    commonest = sorted(ledger.quarantine.items(), key=lambda item: -item[1].count)[:3]
    reasons = "; ".join(f"{reason.count:,} × {kind}" for kind, reason in commonest)
    raise DataError(
        f"{bad:,} of {total:,} records are unusable ({bad / total:.1%}, allowed {max_bad_fraction:.1%}): "
        f"{reasons}. All are in {folder / 'quarantine.jsonl'}; mend them, or raise data.max_bad_fraction"
    )


def _write(file: IO[str], value: dict[str, Any]) -> None:
    file.write(json.dumps(value, ensure_ascii=False) + "\n")
