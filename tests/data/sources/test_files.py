"""Paths, folders, globs and hub ids in; records with their place out."""

from __future__ import annotations

import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from seektune.config.data import SourceConfig
from seektune.data.records import Bad, Record
from seektune.data.sources.files import FileFacts, describe, files_of, read
from seektune.errors import DataError

in_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
ROWS = [{"question": f"第{n}问：血压?", "answer": "≤ 140 mmHg"} for n in range(5)]
LINES = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)


def read_path(path: Path | str, **options: Any) -> list[Record | Bad]:
    return list(read(SourceConfig(path=str(path), **options)))


def kept(found: list[Record | Bad]) -> list[dict[str, Any]]:
    return [item.fields for item in found if isinstance(item, Record)]


def table_bytes(name: str) -> bytes:
    table = pyarrow.Table.from_pylist(ROWS)
    sink = pyarrow.BufferOutputStream()
    if name == "parquet":
        parquet.write_table(table, sink)
    else:
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


CONTENTS: dict[str, bytes] = {
    "rows.jsonl": LINES.encode(),
    "lines.json": LINES.encode(),
    "rows.ndjson": LINES.encode("gb18030"),
    "array.json": json.dumps(ROWS, indent=1).encode(),
    "array.jsonl": ("\ufeff" + json.dumps(ROWS)).encode("utf-16-le"),
    "rows.csv": "\n".join(["question,answer", *(",".join(row.values()) for row in ROWS)]).encode(),
    "rows.tsv": "\n".join(["question\tanswer", *("\t".join(row.values()) for row in ROWS)]).encode(),
    "rows.parquet": table_bytes("parquet"),
    "rows.arrow": table_bytes("arrow"),
    "rows": LINES.encode(),
    "table": table_bytes("parquet"),
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("packed", ["", ".gz", ".xz", ".zst"])
def test_the_same_records_come_out_of_every_kind_of_file(tmp_path: Path, name: str, packed: str) -> None:
    path = tmp_path / f"{name}{packed}"
    data = CONTENTS[name]
    if packed == ".zst":
        with pyarrow.output_stream(str(path), compression="zstd") as stream:
            stream.write(data)
    else:
        path.write_bytes({"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[packed](data))
    assert kept(read_path(path)) == ROWS


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("rows.jsonl", ("jsonl", None, "utf-8")),
        ("lines.json", ("jsonl", None, "utf-8")),
        ("rows.ndjson", ("jsonl", None, "gb18030")),
        ("array.json", ("json", None, "utf-8")),
        ("array.jsonl", ("json", None, "utf-16-le")),
        ("rows.tsv", ("tsv", None, "utf-8")),
        ("rows.arrow", ("arrow", None, None)),
        ("table", ("parquet", None, None)),
    ],
)
def test_what_a_file_is_can_be_told_before_it_is_read(
    tmp_path: Path, name: str, facts: tuple[str, str | None, str | None]
) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENTS[name])
    assert describe(path) == FileFacts(str(path), *facts)


def test_a_named_encoding_counts_more_than_the_detected_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("text\ncafé\n".encode("latin-1"))
    (bad,) = read_path(path)
    assert isinstance(bad, Bad)
    assert (bad.line, bad.raw) == (2, "caf\\xe9")
    assert kept(read_path(path, encoding="latin-1")) == [{"text": "café"}]


def test_plain_text_is_a_record_a_line_or_a_document(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes("\ufeff一\r\n\r\n  二\n".encode())
    assert read_path(path) == [
        Record(str(path), 1, {"text": "一"}),
        Record(str(path), 3, {"text": "  二"}),
    ]
    assert kept(read_path(path, format="document")) == [{"text": "一\r\n\r\n  二", "kind": "text"}]


@pytest.mark.parametrize(("name", "kind"), [("a.md", "markdown"), ("a.html", "html"), ("a.htm", "html")])
def test_markdown_and_html_are_one_document_a_file(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    path.write_text("# 问\n\n答", encoding="utf-8")
    assert kept(read_path(path)) == [{"text": "# 问\n\n答", "kind": kind}]
    path.write_bytes(b"# a\n\xff\n")
    (bad,) = read_path(path)
    assert isinstance(bad, Bad)
    assert (bad.line, "the document is broken" in bad.reason) == (2, True)


def test_a_bad_text_line_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"one\ntwo\xff\nthree\n")
    found = read_path(path)
    assert kept(found) == [{"text": "one"}, {"text": "three"}]
    assert [item.line for item in found if isinstance(item, Bad)] == [2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "b.jsonl",
        "a.jsonl",
        "deep/c.json.gz",
        ".hidden.jsonl",
        ".cache/d.jsonl",
        "dataset_info.json",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress(LINES.encode()) if path.suffix == ".gz" else LINES.encode())
    (tmp_path / "README.md").write_text("# about")
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["a.jsonl", "b.jsonl", "deep/c.json.gz"]),
        ("*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("**/*", ["README.md", "a.jsonl", "b.jsonl", "deep/c.json.gz"]),
        ("[ab].jsonl", ["a.jsonl", "b.jsonl"]),
        ("b.jsonl", ["b.jsonl"]),
        ("dataset_info.json", ["dataset_info.json"]),
    ],
)
def test_a_path_names_a_file_a_folder_or_a_glob(folder: Path, pattern: str, names: list[str]) -> None:
    found = files_of(SourceConfig(path=str(folder / pattern)))
    assert [file.relative_to(folder).as_posix() for file in found] == names


def test_a_folder_of_documents_is_its_text_markdown_and_html(folder: Path) -> None:
    assert files_of(SourceConfig(path=str(folder), format="document")) == [folder / "README.md"]


def test_a_folder_is_read_file_by_file(folder: Path) -> None:
    assert [item.file for item in read_path(folder)[::5]] == [
        str(path) for path in files_of(SourceConfig(path=str(folder)))
    ]


def test_a_path_that_matches_nothing_names_what_is_near(folder: Path) -> None:
    with pytest.raises(DataError, match=r"aa.jsonl matches no file; did you mean .*a.jsonl"):
        read_path(folder / "aa.jsonl")
    with pytest.raises(DataError, match=r"matches no file; .* holds .*README.md"):
        read_path(folder / "absent" / "zzzzzz*")
    with pytest.raises(
        DataError, match=r"holds nothing that can be read as records \(picture.jpg\); known are .json"
    ):
        read_path(folder / "*.jpg")
    with pytest.raises(DataError, match=r"picture.jpg is of no known kind; known are .json"):
        read_path(folder / "picture.jpg")


def test_records_come_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"good": 1}\nbroken\n')
    records = read(SourceConfig(path=str(path)))
    assert next(records) == Record(str(path), 1, {"good": 1})
    assert isinstance(next(records), Bad)


def test_a_hub_id_is_read_as_a_stream(tmp_path: Path, write: Callable[..., Path]) -> None:
    """A folder stands for the hub: the library takes both, and it is the same door."""
    write(ROWS, "train.jsonl")
    found = list(read(SourceConfig(hub=str(tmp_path))))
    assert kept(found) == ROWS
    assert [item.line for item in found] == [1, 2, 3, 4, 5]


def test_a_hub_out_of_reach_names_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(
        DataError, match=r"hub: nobody/nothing/train cannot be read: .* HF_ENDPOINT .* give their folder"
    ):
        next(read(SourceConfig(hub="nobody/nothing")))


REAL = [
    "cmexam/practice_train.jsonl", "medqa/train_subset_4opt.jsonl", "pubmedqa/train.jsonl",
    "formats/lf_alpaca_zh_demo.json", "formats/lf_dpo_zh_demo.json", "formats/huatuo_o1_demo.json",
]  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_files_come_out_as_any_reader_reads_them(real_data: Path, name: str) -> None:
    text = (real_data / name).read_text(encoding="utf-8")
    rows = json.loads(text) if text[0] == "[" else [json.loads(line) for line in text.split("\n") if line]
    assert kept(read_path(real_data / name)) == rows


@pytest.fixture(scope="module")
def real_rows(real_data: Path) -> list[dict[str, Any]]:
    names = ("cmexam/practice_train.jsonl", "formats/lf_dpo_zh_demo.json", "formats/lf_alpaca_en_demo.json")
    return [row for name in names for row in kept(read_path(real_data / name))[:10]]


@in_one_folder
@given(chinese=st.sets(st.integers(0, 29)))
def test_lines_in_another_encoding_than_the_file_are_bad_and_no_line_changes(
    tmp_path: Path, real_rows: list[dict[str, Any]], chinese: set[int]
) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in real_rows]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(
        b"\n".join(
            line.encode("gb18030" if number in chinese else "utf-8") for number, line in enumerate(lines)
        )
    )
    found = read_path(path)
    plain = {number for number, line in enumerate(lines) if line.isascii()}
    fewer = min(chinese - plain, set(range(30)) - chinese - plain, key=len)
    assert {item.line - 1 for item in found if isinstance(item, Bad)} == fewer
    assert kept(found) == [row for number, row in enumerate(real_rows) if number not in fewer]


@pytest.mark.parametrize("layout", ["lines", "indented", "compact", "csv"])
@in_one_folder
@given(share=st.floats(0, 0.999), damage=st.sampled_from(["flip", "cut", "nul", "quote", "line"]))
def test_damage_to_a_real_file_costs_the_record_it_hits(
    tmp_path: Path, real_rows: list[dict[str, Any]], layout: str, share: float, damage: str
) -> None:
    rows = [
        {key: json.dumps(row[key], ensure_ascii=False) for key in list(row)[:3]} for row in real_rows[:10]
    ]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([rows[0].keys(), *(row.values() for row in rows)])
    texts = {
        "lines": "\n".join(map(json.dumps, rows)),
        "indented": json.dumps(rows, indent=4, ensure_ascii=False),
        "compact": json.dumps(rows, separators=(",", ":"), ensure_ascii=False),
        "csv": file.getvalue(),
    }
    data = texts[layout].encode()
    start = data.index(b"\n") + 1 if layout == "csv" else 0
    at = start + int(share * (len(data) - start))
    put = {"flip": bytes([data[at] ^ 4]), "cut": b"", "nul": b"\0", "quote": b'"', "line": b"\n"}[damage]
    path = tmp_path / ("rows.csv" if layout == "csv" else "rows.json")
    path.write_bytes(data[:at] + put + data[at + 1 :])
    found = read_path(path)
    same = [fields for fields in kept(found) if fields in rows]
    assert same == [row for row in rows if row in same]
    assert len(same) >= len(rows) - 2
    assert len(rows) - 1 <= len(found) <= len(rows) + 3
