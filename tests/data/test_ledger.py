"""Every record is counted once, and stands in the file of its fate."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.ledger import EXAMPLES, Account, Ledger, check_quality
from seektune.data.records import Bad, Dropped
from seektune.errors import DataError


def bad(line: int) -> Bad:
    return Bad("a.jsonl", line, f"not JSON at column {line}", "{")


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@given(st.lists(st.sampled_from(["keep", "bad", "drop", "drop later", "bad later"]), max_size=30))
def test_the_counts_and_the_files_agree(tmp_path_factory: pytest.TempPathFactory, fates: list[str]) -> None:
    folder = tmp_path_factory.mktemp("data")
    account = Account("train", "a.jsonl")
    with Ledger(folder) as ledger:
        for line, fate in enumerate(fates):
            account.kept += fate in ("keep", "drop later", "bad later")
            if fate.startswith("bad"):
                ledger.bad(account, bad(line), "not JSON", was_kept=fate == "bad later")
            elif fate.startswith("drop"):
                ledger.drop(account, Dropped(f"a:{line}", "duplicate"), was_kept=fate == "drop later")
    assert account.total == len(fates)
    assert len(lines(folder / "quarantine.jsonl")) == account.quarantined
    assert len(lines(folder / "dropped.jsonl")) == account.dropped
    assert account.kept == fates.count("keep")
    shown = ledger.quarantine["not JSON"].to_json()
    assert shown["count"] == account.quarantined
    assert len(shown["examples"]) == min(EXAMPLES, account.quarantined)


@pytest.mark.parametrize(("unusable", "good", "stops"), [(9, 0, False), (10, 990, False), (11, 989, True)])
def test_too_many_unusable_records_stop_with_the_counts(
    tmp_path: Path, unusable: int, good: int, stops: bool
) -> None:
    account = Account("train", "a.jsonl", kept=good)
    with Ledger(tmp_path) as ledger:
        for line in range(unusable):
            ledger.bad(account, bad(line), "not JSON")
    if not stops:
        check_quality([account], ledger, 0.01, tmp_path)
        return
    with pytest.raises(DataError, match=r"11 of 1,000 records are unusable .* 11 × not JSON.*quarantine"):
        check_quality([account], ledger, 0.01, tmp_path)
