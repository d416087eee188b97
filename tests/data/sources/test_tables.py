"""CSV, Parquet and Arrow in; every row that is not damaged out, and the damaged ones counted."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from seektune.data.records import Bad, Record
from seektune.data.sources.tables import read_arrow, read_csv, read_parquet

in_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
cells = st.text(st.characters(exclude_characters="\0\r\ufeff", exclude_categories=["Cs"]), max_size=20)
ROWS = [
    {
        "question": f"第{n}问: 血压, 心率?",
        "answer": f'≤ 140 "mmHg"\n第二行, {n}\n\n完' if n % 3 else "好",
        "n": str(n),
    }
    for n in range(12)
]
PICTURES = [{"text": f"第{n}例", "n": n, "image": {"bytes": b"\xff\xd8\0", "path": None}} for n in range(100)]


def as_csv(rows: list[dict[str, str]], delimiter: str = ",", end: str = "\n") -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, lineterminator=end)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def kept(found: list[Record | Bad]) -> list[dict[str, Any]]:
    return [item.fields for item in found if isinstance(item, Record)]


def bad(found: list[Record | Bad]) -> list[Bad]:
    return [item for item in found if isinstance(item, Bad)]


def read_text(tmp_path: Path, text: str | bytes, **options: Any) -> list[Record | Bad]:
    path = tmp_path / "rows.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return list(read_csv(path, "utf-8", **options))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@in_one_folder
@given(rows=st.lists(st.fixed_dictionaries({"a": cells, "b": cells}), min_size=1, max_size=6))
def test_what_was_written_is_read(tmp_path: Path, delimiter: str, rows: list[dict[str, str]]) -> None:
    assert kept(read_text(tmp_path, as_csv(rows, delimiter))) == rows
    assert kept(read_text(tmp_path, as_csv(rows, "\t"), tabs=True)) == rows


def test_a_row_over_several_lines_is_named_by_its_first(tmp_path: Path) -> None:
    found = read_text(tmp_path, as_csv(ROWS))
    assert kept(found) == ROWS
    assert [item.line for item in found[:4]] == [2, 3, 7, 11]


def test_windows_line_ends_are_kept_within_a_cell_only(tmp_path: Path) -> None:
    assert kept(read_text(tmp_path, 'a,b\r\n1,"x\r\ny"\r\n')) == [{"a": "1", "b": "x\r\ny"}]


def test_a_comma_in_a_heading_text_and_an_inch_mark_are_no_quotes(tmp_path: Path) -> None:
    assert kept(read_text(tmp_path, 'a;b\n5" pipe;x, y\n')) == [{"a": '5" pipe', "b": "x, y"}]


@in_one_folder
@given(hit=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_one_flipped_bit_costs_one_row(tmp_path: Path, hit: int, bit: int) -> None:
    whole = bytearray(as_csv(ROWS).encode())
    header = whole.index(b"\n") + 1
    whole[header + hit % (len(whole) - header)] ^= 1 << bit
    same = [fields for fields in kept(read_text(tmp_path, bytes(whole))) if fields in ROWS]
    assert same == [row for row in ROWS if row in same]
    assert len(same) >= len(ROWS) - 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"1", "has 1 columns where the first line names 2"),
        (b"1,2,3", "has 3 columns where the first line names 2"),
        (b'1,"open', "a quote is never closed"),
        (b'1,"x"y', "text after a closing quote"),
        (b"1,\xff", "not utf-8 text"),
        (b"1,\0", "NUL byte"),
    ],
)
def test_a_bad_row_is_named_and_reading_goes_on_at_the_next_line(
    tmp_path: Path, line: bytes, said: str
) -> None:
    first, broken, last = read_text(tmp_path, b"a,b\n1,2\n" + line + b"\n3,4\n")
    assert isinstance(broken, Bad)
    assert (broken.line, broken.raw.isascii(), said in broken.reason) == (3, True, True)
    assert kept([first, last]) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_the_lines_of_a_broken_row_are_no_rows_of_their_own(tmp_path: Path) -> None:
    text = 'a,b\n1,"x"y first,\nsecond, line\nthird, line"\n3,4\n'
    found = read_text(tmp_path, text)
    assert kept(found) == [{"a": "3", "b": "4"}]
    assert len(bad(found)) == 1


@pytest.mark.parametrize("header", [b"a,a", b"a,\xff", b'a,"b'])
def test_without_usable_column_names_every_row_is_counted_as_bad(tmp_path: Path, header: bytes) -> None:
    found = read_text(tmp_path, header + b"\n1,2\n3,4\n")
    assert [item.line for item in bad(found)] == [1, 2, 3]
    assert all("column names in the first line are unusable" in item.reason for item in bad(found))


def test_an_enormous_cell_and_an_empty_table_are_good(tmp_path: Path) -> None:
    rows = [{"a": "热" * 300_000, "b": "x, y\n" * 50_000}]
    assert kept(read_text(tmp_path, as_csv(rows))) == rows
    assert read_text(tmp_path, "a,b\n") == []
    assert read_text(tmp_path, "") == []


def as_parquet(path: Path, **options: Any) -> Path:
    parquet.write_table(pyarrow.Table.from_pylist(PICTURES), path, row_group_size=40, **options)
    return path


def as_arrow(path: Path, stream: bool, **options: Any) -> Path:
    table = pyarrow.Table.from_pylist(PICTURES)
    new = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with pyarrow.OSFile(str(path), "wb") as file, new(file, table.schema, **options) as writer:
        writer.write_table(table, 40)
    return path


def test_parquet_rows_know_their_group_and_row_and_pictures_stay_bytes(tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "rows.parquet")
    found = list(read_parquet(path))
    assert kept(found) == PICTURES
    assert [item.row_id for item in found if isinstance(item, Record)][40] == f"{path}:2:1"


def test_a_damaged_page_costs_its_row_group_and_each_lost_row_is_counted(tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "rows.parquet", write_page_checksum=True)
    data = bytearray(path.read_bytes())
    start = parquet.ParquetFile(path).metadata.row_group(1).column(0).dictionary_page_offset
    data[start + 60] ^= 1
    path.write_bytes(data)
    found = list(read_parquet(path))
    assert kept(found) == PICTURES[:40] + PICTURES[80:]
    assert [item.line for item in bad(found)] == [*range(1, 41)]
    assert "row group 2 is damaged" in bad(found)[0].reason


def test_a_parquet_file_without_its_end_is_one_bad_record(tmp_path: Path) -> None:
    path = as_parquet(tmp_path / "rows.parquet")
    path.write_bytes(path.read_bytes()[:-9])
    (item,) = read_parquet(path)
    assert isinstance(item, Bad)
    assert "not a whole Parquet file" in item.reason


def test_a_packed_parquet_file_is_read_and_one_cut_short_is_one_bad_record(tmp_path: Path) -> None:
    packed = gzip.compress(as_parquet(tmp_path / "rows.parquet").read_bytes())
    path = tmp_path / "rows.parquet.gz"
    path.write_bytes(packed)
    assert kept(list(read_parquet(path))) == PICTURES
    path.write_bytes(packed[:-30])
    (item,) = read_parquet(path)
    assert isinstance(item, Bad)
    assert "damaged or cut off" in item.reason


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_files_and_streams_are_read_and_what_stands_before_a_cut_survives(
    tmp_path: Path, stream: bool
) -> None:
    path = as_arrow(tmp_path / "rows.arrow", stream)
    found = list(read_arrow(path))
    assert kept(found) == PICTURES
    assert [item.row_id for item in found if isinstance(item, Record)][99] == f"{path}:3:20"
    data = path.read_bytes()
    path.write_bytes(data[: data.index("第90例".encode())])
    found = list(read_arrow(path))
    assert kept(found) == PICTURES[:80]
    assert [item.line for item in bad(found)] == [81]


def test_text_that_is_not_utf_8_costs_its_own_row(tmp_path: Path) -> None:
    for path, read in (
        (as_arrow(tmp_path / "rows.arrow", True), read_arrow),
        (as_parquet(tmp_path / "rows.parquet", compression="none"), read_parquet),
    ):
        data = path.read_bytes()
        path.write_bytes(data.replace("第7例".encode(), b"\xff" + "第7例".encode()[1:]))
        found = list(read(path))
        assert kept(found) == PICTURES[:7] + PICTURES[8:]
        assert [item.line for item in bad(found)] == [8]


@pytest.mark.parametrize("kind", ["parquet", "plain parquet", "arrow", "packed arrow"])
@in_one_folder
@given(share=st.floats(0, 0.999), bit=st.integers(0, 7), cut=st.integers(0, 9))
def test_no_damage_to_a_binary_table_escapes(
    tmp_path: Path, kind: str, share: float, bit: int, cut: int
) -> None:
    path = tmp_path / "rows"
    if "parquet" in kind:
        as_parquet(path, compression="none" if "plain" in kind else "snappy")
    else:
        packed = pyarrow.ipc.IpcWriteOptions(compression="zstd" if "packed" in kind else None)
        as_arrow(path, stream=False, options=packed)
    data = bytearray(path.read_bytes())
    at = int(share * len(data))
    data[at] ^= 1 << bit
    del data[at + 1 : at + 1 + cut]
    path.write_bytes(data)
    found = list((read_parquet if "parquet" in kind else read_arrow)(path))
    assert all(isinstance(item, Record | Bad) for item in found)
    assert len(kept(found)) <= len(PICTURES)
