"""JSON lines in, records with their place out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seektune.data.sources import read_jsonl
from seektune.errors import DataError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text(), json_values, max_size=4)
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)


@in_one_folder
@given(st.lists(objects, max_size=6), st.booleans())
def test_what_was_written_is_read_with_its_line(
    tmp_path: Path, rows: list[dict[str, object]], ascii: bool
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n\n".join(json.dumps(row, ensure_ascii=ascii) for row in rows), encoding="utf-8")
    records = list(read_jsonl(path))
    assert [record.fields for record in records] == rows
    assert [record.row_id for record in records] == [f"{path}:{2 * index + 1}" for index in range(len(rows))]


@in_one_folder
@given(st.lists(objects, min_size=1, max_size=4), st.binary(min_size=1, max_size=8), st.data())
def test_damage_is_either_read_as_an_object_or_named_by_its_line(
    tmp_path: Path, rows: list[dict[str, object]], junk: bytes, data: st.DataObject
) -> None:
    lines = [json.dumps(row).encode() for row in rows]
    hit = data.draw(st.integers(0, len(lines) - 1))
    cut = data.draw(st.integers(0, len(lines[hit])))
    lines[hit] = lines[hit][:cut] + junk.replace(b"\n", b"") + lines[hit][cut:]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(lines))
    said = f"{path}:{hit + 1} "
    try:
        read = list(read_jsonl(path))
    except DataError as error:
        said = str(error)
        read = []
    assert said.startswith(f"{path}:{hit + 1} ")
    assert all(isinstance(record.fields, dict) for record in read)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": 1', "not valid JSON"),
        (b"[1, 2]", "a JSON list"),
        (b'"text"', "a JSON str"),
        (b'{"a": "\xff"}', "not valid UTF-8"),
        (b'{"a": "\\ud800"}', "not valid UTF-8"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not usable JSON"),
        (b'{"a": ' + b"[" * 100_000, "not usable JSON"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"good": 1}\n' + line + b"\n")
    with pytest.raises(DataError, match=f"rows.jsonl:2 .*{said}"):
        list(read_jsonl(path))


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "x"}\r\n')
    assert next(read_jsonl(path)).fields == {"text": "x"}


def test_unicode_line_separators_do_not_end_a_line(write: Callable[..., Path]) -> None:
    path = write([{"text": "a\u2028b\x85c"}, {"text": "d"}])
    assert [record.line for record in read_jsonl(path)] == [1, 2]


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*absent.jsonl: No such file"):
        list(read_jsonl(tmp_path / "absent.jsonl"))
    with pytest.raises(DataError, match=f"cannot read {os.fspath(tmp_path)}"):
        list(read_jsonl(tmp_path))


def test_records_come_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"good": 1}\nbroken\n')
    records = read_jsonl(path)
    assert next(records).fields == {"good": 1}
    with pytest.raises(DataError):
        next(records)
