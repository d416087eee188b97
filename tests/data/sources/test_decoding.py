"""Compressed and encoded bytes in, numbered lines and text out."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from seektune.data.sources import decoding
from seektune.errors import DataError

ENCODINGS = ["utf-8", "utf-8-sig", "gb18030", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
MARKS = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff", "utf-32-le": "\ufeff", "utf-32-be": "\ufeff"}
CHINESE = "患者男，45岁，发热三天，体温38.5℃。"
in_one_folder = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40, deadline=None
)
line_texts = st.lists(st.text(st.characters(exclude_characters="\n\0\ufeff", exclude_categories=["Cs"])))


def zstd(data: bytes) -> bytes:
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, mtime=0),
    "xz": lzma.compress,
    "zst": zstd,
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@in_one_folder
@given(rows=line_texts)
@example(rows=["一", "≤一开", "ਊ䄀", "a\r"])
def test_lines_and_text_come_out_as_they_were_written(tmp_path: Path, encoding: str, rows: list[str]) -> None:
    path = tmp_path / "rows"
    path.write_bytes((MARKS.get(encoding, "") + "\n".join(rows)).encode(encoding))
    found = [(number, *decoding.decoded(raw, encoding)) for number, raw, _ in decoding.lines(path, encoding)]
    written = [(number, row, "") for number, row in enumerate(rows, start=1)]
    while written and not written[-1][1]:
        written.pop()
    while found and not found[-1][1]:
        found.pop()
    if encoding != "gb18030":  # a line that is valid UTF-8 as well is refused there
        assert found == written
    text = "".join(decoding.texts(path, encoding))
    assert text.removeprefix("\ufeff") == "\n".join(rows)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16-le", "utf-16-be"])
def test_the_encoding_is_told_by_the_mark_or_by_most_lines(encoding: str) -> None:
    text = "\n".join(['{"id": 1}', *[f'{{"text": "{CHINESE}"}}'] * 5])
    start = (MARKS.get(encoding, "") + text).encode(encoding)
    assert decoding.encoding_of(start) == encoding
    assert decoding.encoding_of(start[:-7]) == encoding


def test_a_few_lines_in_another_encoding_do_not_change_the_file() -> None:
    rows = [CHINESE.encode()] * 7 + [CHINESE.encode("gb18030")] * 3
    assert decoding.encoding_of(b"\n".join(rows)) == "utf-8"
    rows = [CHINESE.encode()] * 3 + [CHINESE.encode("gb18030")] * 7
    assert decoding.encoding_of(b"\n".join(rows)) == "gb18030"
    rows = [CHINESE.encode()] * 3 + [CHINESE.encode("gb18030")] * 3
    assert decoding.encoding_of(b"\n".join([*rows, "🚀Ready".encode("gb18030")])) == "gb18030"


def test_a_file_in_one_line_is_judged_by_its_strings() -> None:
    array = ("[" + ", ".join(f'{{"text": "{CHINESE}"}}' for _ in range(9)) + "]").encode("gb18030")
    assert decoding.encoding_of(array.replace("岁".encode("gb18030"), b"\xff\xff", 1)) == "gb18030"


def test_a_string_that_ends_in_half_a_character_does_not_speak_for_utf_8() -> None:
    assert decoding.encoding_of('["答案“甲”", "x'.encode("gb18030") + b'\xdc", "y"]') == "gb18030"


def test_accents_in_latin_1_are_not_taken_for_chinese() -> None:
    assert decoding.encoding_of("café été\nnaïveté\nà côté".encode("latin-1")) == "utf-8"


@pytest.mark.parametrize("name", ["utf-9", "rot13", "zlib"])
def test_an_unknown_encoding_is_named(name: str) -> None:
    with pytest.raises(DataError, match=f"encoding: '{name}' is unknown"):
        decoding.named_encoding(name, b"")


def test_a_named_encoding_takes_its_byte_order_from_the_file() -> None:
    assert decoding.named_encoding("UTF-16", "\ufeffa".encode("utf-16-be")) == "utf-16-be"
    assert decoding.named_encoding("utf-16", b"a\0") == "utf-16-le"
    assert decoding.named_encoding("Latin-1", b"") == "iso8859-1"
    assert decoding.named_encoding("GBK", b"") == decoding.named_encoding("gb2312", b"") == "gb18030"


@pytest.mark.parametrize(
    ("raw", "encoding", "said"),
    [
        (b"ab\xff", "utf-8", "byte 3 of the line is not utf-8 text"),
        (CHINESE.encode("gb18030"), "utf-8", "it is valid gb18030"),
        (b"\x81", "gb18030", "not gb18030 text"),
        (CHINESE.encode(), "gb18030", "utf-8 text in a gb18030 file"),
        (b"a\0b", "utf-8", "NUL byte"),
    ],
)
def test_why_a_line_cannot_be_trusted_is_said(raw: bytes, encoding: str, said: str) -> None:
    assert said in decoding.decoded(raw, encoding)[1]


@pytest.mark.parametrize(
    "line", ["🚀Ready", "it’s", "café", "8 µg", "38.5 °C", "±2", "Ça", "naïve, 3 m²", "Иван", "一", "男,1"]
)
def test_a_short_line_of_utf_8_in_a_gb18030_file_is_told_and_not_changed(line: str) -> None:
    assert decoding.decoded(line.encode(), "gb18030") == (line, decoding._MISREAD)


@pytest.mark.parametrize("line", ["女", "45,女", "女,3枚", "pH值 7", "片", "片, 枚, 没", "患者女", CHINESE])
def test_short_chinese_that_is_valid_utf_8_too_is_what_its_file_is(line: str) -> None:
    assert decoding.decoded(line.encode("gb18030"), "gb18030") == (line, "")


@pytest.mark.parametrize("width", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_lost_byte_costs_one_line_of_wide_text(tmp_path: Path, width: str) -> None:
    rows = [f'{{"text": "{CHINESE}", "id": {number}}}' for number in range(9)]
    data = "\n".join(rows).encode(width)
    path = tmp_path / "rows"
    path.write_bytes(data[:400] + data[401:])
    texts = [decoding.decoded(raw, width) for _, raw, _ in decoding.lines(path, width)]
    assert len(texts) == 9
    assert sum(text == (row, "") for text, row in zip(texts, rows, strict=True)) == 8


@pytest.mark.parametrize("name", COMPRESS)
def test_an_archive_is_known_by_its_content(tmp_path: Path, name: str) -> None:
    data = "\n".join(f"{number} {CHINESE}" for number in range(20_000)).encode()
    path = tmp_path / "rows"
    path.write_bytes(COMPRESS[name](data))
    assert decoding.compression_of(path) == name
    assert b"".join(decoding.blocks(path)) == data
    assert decoding.head(path) == data[: decoding.HEAD]


@pytest.mark.parametrize("name", COMPRESS)
@in_one_folder
@given(share=st.floats(0.01, 0.99))
def test_a_cut_archive_gives_all_lines_before_the_break_and_says_so_once(
    tmp_path: Path, name: str, share: float
) -> None:
    rows = [f"{number * 7919 % 10007} {CHINESE}".encode() for number in range(500)]
    packed = COMPRESS[name](b"\n".join(rows))
    path = tmp_path / "rows"
    path.write_bytes(packed[: max(8, int(len(packed) * share))])
    *whole, (number, part, reason) = decoding.lines(path, "utf-8")
    assert [raw for _, raw, _ in whole] == rows[: len(whole)]
    assert number == len(whole) + 1
    assert rows[len(whole)].startswith(part)
    assert "damaged or cut off here" in reason
    assert not any(torn for _, _, torn in whole)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*absent: No such file"):
        decoding.compression_of(tmp_path / "absent")
    with pytest.raises(DataError, match="cannot read"):
        list(decoding.blocks(tmp_path))
