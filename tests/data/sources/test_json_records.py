"""Lines, arrays and objects of JSON in; records with their line out, and what broke with its reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from seektune.data.records import Bad, Record
from seektune.data.sources.decoding import MAGIC
from seektune.data.sources.json_records import is_lines, parse, read_elements, read_lines
from seektune.errors import DataError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
objects = st.dictionaries(st.text(), json_values, max_size=4)
in_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
ROWS = [
    {
        "conversations": [
            {"from": "human", "value": f"第{n}问，血压?"},
            {"from": "gpt", "value": "≤ 140 mmHg"},
        ],
        "n": n,
    }
    for n in range(12)
]


def dumps(value: object, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **options)


LAYOUTS: dict[str, Callable[[list[Any]], str]] = {
    "lines": lambda rows: "\n".join(map(dumps, rows)),
    "one a line": lambda rows: "[\n" + ",\n".join(map(dumps, rows)) + "\n]\n",
    "indented": lambda rows: dumps(rows, indent=2),
    "braces joined": lambda rows: "[" + ", ".join(dumps(row, indent=1) for row in rows) + "]",
    "compact": lambda rows: dumps(rows, separators=(",", ":")),
    "spaced": dumps,
    "one after the other": lambda rows: "\n".join(dumps(row, indent=2) for row in rows),
}


def read(path: Path, encoding: str = "utf-8") -> list[Record | Bad]:
    start = path.read_bytes().decode(encoding, "replace")
    return list((read_lines if is_lines(start, path.suffix) else read_elements)(path, encoding))


def kept(found: list[Record | Bad]) -> list[dict[str, Any]]:
    return [item.fields for item in found if isinstance(item, Record)]


@pytest.mark.parametrize("layout", LAYOUTS)
@in_one_folder
@given(rows=st.lists(objects.filter(bool), max_size=5))
def test_what_was_written_is_read(tmp_path: Path, layout: str, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "rows.json"
    path.write_text(LAYOUTS[layout](rows), encoding="utf-8", newline="")
    assert kept(read(path)) == rows


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_record_knows_the_line_it_starts_on(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text := LAYOUTS[layout](ROWS), encoding="utf-8")
    rows = text.split("\n")
    for item in read(path):
        assert isinstance(item, Record)
        assert "{" in rows[item.line - 1]
    assert len({item.line for item in read(path)}) == (1 if layout in ("compact", "spaced") else len(ROWS))


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16-le"])
@pytest.mark.parametrize("layout", LAYOUTS)
@in_one_folder
@given(data=st.data())
def test_one_flipped_bit_costs_one_record(
    tmp_path: Path, layout: str, encoding: str, data: st.DataObject
) -> None:
    whole = bytearray(LAYOUTS[layout](ROWS).encode(encoding))
    hit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[hit // 8] ^= 1 << hit % 8
    path = tmp_path / "rows.json"
    path.write_bytes(whole)
    found = read(path, encoding)
    same = [fields for fields in kept(found) if fields in ROWS]
    assert same == [row for row in ROWS if row in same]
    assert len(same) >= len(ROWS) - 2
    assert len(ROWS) - 1 <= len(found) <= len(ROWS) + 3


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16-le", "utf-16-be"])
@in_one_folder
@given(
    at=st.integers(0, 1200),
    length=st.integers(1, 40),
    junk=st.sampled_from([b"", b'"', b"\xff", b"{", b"}\n"]),
)
def test_bytes_lost_or_added_cost_the_records_they_touch(
    tmp_path: Path, layout: str, encoding: str, at: int, length: int, junk: bytes
) -> None:
    whole = LAYOUTS[layout](ROWS).encode(encoding)
    path = tmp_path / "rows.json"
    path.write_bytes(whole[:at] + junk + whole[at + length :])
    assert sum(fields in ROWS for fields in kept(read(path, encoding))) >= len(ROWS) - 4


@in_one_folder
@given(st.lists(objects, min_size=1, max_size=4), st.binary(min_size=1, max_size=8), st.data())
def test_damage_to_a_line_leaves_the_others_as_they_were(
    tmp_path: Path, rows: list[dict[str, object]], junk: bytes, data: st.DataObject
) -> None:
    lines = [json.dumps(row).encode() for row in rows]
    hit = data.draw(st.integers(0, len(lines) - 1))
    cut = data.draw(st.integers(0, len(lines[hit])))
    lines[hit] = lines[hit][:cut] + junk.replace(b"\n", b"") + lines[hit][cut:]
    path = tmp_path / "rows.jsonl"
    assume(not lines[0].startswith(tuple(magic for magic, _ in MAGIC)))  # which say that it is compressed
    path.write_bytes(b"\n".join(lines))
    found = {item.line: item for item in read_lines(path, "utf-8")}
    assert sorted(found) == [*range(1, len(rows) + 1)]
    for number, row in enumerate(rows, start=1):
        item = found[number]
        if number != hit + 1:
            assert isinstance(item, Record)
            assert item.fields == row


BROKEN = [
    (b'{"a": 1', "not valid JSON: Expecting ',' delimiter at column 8"),
    (b"[1, 2]", "is a JSON list"),
    (b'"text"', "is a JSON str"),
    (b'{"a": "\xff"}', "byte 8 of the line is not utf-8 text"),
    (b'{"a": "\\ud800"}', "half of a surrogate pair"),
    (b'{"\\uDBff": 1}', "half of a surrogate pair"),
    (b'{"a": "x\0"}', "NUL byte"),
    (b'{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' occurs twice"),
    (b'{"a": ' + b"9" * 5000 + b"}", "not usable JSON"),
    (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize(("line", "said"), BROKEN)
def test_a_bad_line_is_named_with_its_number_and_reason(tmp_path: Path, line: bytes, said: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"good": 1}\n\n' + line + b'\n{"good": 2}\n')
    first, bad, last = read_lines(path, "utf-8")
    assert isinstance(bad, Bad)
    assert (bad.line, first.line, last.line) == (3, 1, 4)
    assert said in bad.reason
    assert len(bad.raw) <= 2000
    assert bad.raw.isascii()


@pytest.mark.parametrize("line", [line for line, _ in BROKEN])
def test_a_bad_element_leaves_the_others(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b'[{"good": 1},\n' + line + b',\n{"good": 2}]\n')
    found = list(read_elements(path, "utf-8"))
    assert kept(found) == [{"good": 1}, {"good": 2}]
    assert next(item.line for item in found if isinstance(item, Bad)) == 2


def test_utf_8_elements_of_a_gb18030_array_are_refused(tmp_path: Path) -> None:
    rows = [dumps({"text": f"发热三天，咳嗽{n}"}) for n in range(5)]
    parts = [row.encode("utf-8" if n == 2 else "gb18030") for n, row in enumerate(rows)]
    path = tmp_path / "rows.json"
    path.write_bytes(b"[" + b",\n".join(parts) + b"]")
    found = list(read_elements(path, "gb18030"))
    assert kept(found) == [json.loads(row) for n, row in enumerate(rows) if n != 2]


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "x"}\r\n')
    assert kept(list(read_lines(path, "utf-8-sig"))) == [{"text": "x"}]
    assert kept(list(read_elements(path, "utf-8-sig"))) == [{"text": "x"}]


def test_unicode_line_separators_do_not_end_a_line(write: Callable[..., Path]) -> None:
    path = write([{"text": "a\u2028b\x85c"}, {"text": "d"}])
    assert [item.line for item in read_lines(path, "utf-8")] == [1, 2]


def test_not_a_number_is_a_missing_value() -> None:
    assert parse('{"a": NaN, "b": Infinity}') == {"a": None, "b": float("inf")}


def test_a_duplicate_key_that_says_the_same_is_refused_all_the_same() -> None:
    with pytest.raises(DataError, match="the key 'a' occurs twice"):
        parse('{"a": 1, "a": 1}')


def test_an_enormous_field_is_good(tmp_path: Path) -> None:
    row = {"text": "热" * 3_000_000}
    path = tmp_path / "rows.json"
    path.write_text(f"[{dumps(row)},\n{dumps(row)}]", encoding="utf-8")
    assert kept(list(read_elements(path, "utf-8"))) == [row, row]
    path.write_text(f"{dumps(row)}\n{dumps(row)}", encoding="utf-8")
    assert kept(list(read_lines(path, "utf-8"))) == [row, row]


def test_lines_are_known_by_their_look_and_where_damaged_by_the_suffix() -> None:
    assert is_lines('{"a": 1}\n{"a": 2}\n', ".json")
    assert is_lines('["a": 1}\n{"a": 2}\n', ".jsonl")
    assert is_lines('{"a": 1', ".jsonl")
    assert not is_lines('{"a": 1', ".json")
    assert not is_lines('[{"a": 1},\n{"a": 2}]', ".jsonl")
    assert not is_lines('{\n  "a": 1\n}\n', ".jsonl")
    assert not is_lines('[\n{"a": 1}\n]', ".json")


def test_a_long_array_is_never_held_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    row = {"text": "x" * 1000}
    with path.open("w") as file:
        file.write("[" + ",".join([json.dumps(row)] * 3000) + ', {"broken": x}, ')
        file.write(",".join([json.dumps(row)] * 3000) + "]")
    read_so_far = read_elements(path, "utf-8")
    assert next(read_so_far) == Record(str(path), 1, row)
    assert sum(isinstance(item, Record) for item in read_so_far) == 5999
