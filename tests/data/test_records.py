"""Places of records, and what the quarantine shows of a bad one."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from seektune.data.records import RAW_BYTES, Bad, Dropped, Record, escaped


def test_a_row_is_named_by_file_and_line_and_in_parquet_by_its_row_group_too() -> None:
    assert Record("a.jsonl", 3, {}).row_id == "a.jsonl:3"
    assert Record("a.parquet", 3, {}, group=0).row_id == "a.parquet:0:3"


def test_bad_and_dropped_records_are_json_lines_with_fixed_keys() -> None:
    assert list(Bad("a", 1, "why", "raw").to_json()) == ["file", "line", "reason", "raw"]
    assert list(Dropped("a:1", "duplicate").to_json()) == ["row_id", "reason", "detail"]


@given(st.binary(max_size=3000) | st.text(max_size=3000))
def test_what_is_kept_of_a_bad_record_is_short_printable_ascii(raw: bytes | str) -> None:
    shown = escaped(raw)
    assert len(shown) <= RAW_BYTES
    assert shown.isascii()
    assert json.loads(json.dumps(shown)) == shown
