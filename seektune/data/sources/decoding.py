"""Bytes of a file as lines or text: compression, character encoding, and where either breaks."""

from __future__ import annotations

import codecs
import gzip
import lzma
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, cast

from seektune.errors import DataError

HEAD = 1 << 20
"""Bytes at the start of a file from which its encoding and layout are told."""

DAMAGED = "\udcff"
"""Stands in decoded text where bytes could not be decoded; no valid text holds it."""

_BLOCK = 1 << 18
MAGIC = ((b"\x1f\x8b", "gz"), (b"\x28\xb5\x2f\xfd", "zst"), (b"\xfd7zXZ\x00", "xz"))
"""First bytes of a compressed file, which count and not its name."""
_BOMS = (  # the longer ones first: a UTF-32 mark starts with a UTF-16 one
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_WIDTHS = MappingProxyType({"utf-16-le": 2, "utf-16-be": 2, "utf-32-le": 4, "utf-32-be": 4})
_CHINESE = re.compile(rb"(?:[\xa1-\xf7][\xa1-\xfe])+|[\x81-\xfe][0-9][\x81-\xfe][0-9]")
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")
_FEW_CHINESE = re.compile(rb"[\x00-\x7f]*(?:[\xc2-\xdf][\xa1-\xbf][\x00-\x7f]*){,3}")
_LATIN = re.compile(  # an accent in a word, a degree or micro sign by a number or unit
    rb"[a-z][\xc2\xc3][\xa1-\xbf]|[\xc2\xc3][\xa1-\xbf][a-z]"
    rb"|[0-9]\xc2[\xb0\xb1\xb5]|\xc2[\xb0\xb1\xb5][0-9A-Z]"
)
_MISREAD = "the line reads as utf-8 text in a gb18030 file"
_AFTER_MARK = MappingProxyType(  # what makes a mark off the grid one
    {"\n": frozenset(range(1, 128)), '"': frozenset(b":,}] \r\n")}
)
_TORN = (OSError, EOFError, zlib.error, lzma.LZMAError)

codecs.register_error("seektune_damaged", lambda error: (DAMAGED, _end_of(error)))


def _end_of(error: UnicodeError) -> int:
    assert isinstance(error, UnicodeDecodeError)
    return error.end


def compression_of(path: Path) -> str | None:
    """gz, zst, xz or None, told by the first bytes; DataError where the file cannot be read."""
    with _readable(path), path.open("rb") as stream:
        start = stream.read(8)
    return next((name for magic, name in MAGIC if start.startswith(magic)), None)


def blocks(path: Path) -> Iterator[bytes]:
    """The decompressed content, block by block.

    Where an archive is cut or damaged everything before the break comes out first, then DataError says so.
    """
    compression = compression_of(path)
    given = 0
    with _readable(path):
        stream = _open(path, compression)
    with stream:
        try:
            while block := stream.read(_BLOCK):
                given += len(block)
                yield block
            return
        except _TORN as error:
            reason = f"the file is damaged or cut off here: {str(error) or type(error).__name__}"
    yield _rest(path, compression, given)
    raise DataError(reason)


def head(path: Path) -> bytes:
    """The first MB of the decompressed content, or what there is of it."""
    start = b""
    with suppress(DataError):  # the reader meets the same break and reports it
        for block in blocks(path):
            start += block
            if len(start) >= HEAD:
                break
    return start[:HEAD]


def encoding_of(start: bytes) -> str:
    """Name of the encoding of a file that starts so: by its byte order mark, else what most lines are."""
    for mark, name in _BOMS:
        if start.startswith(mark):
            return name
    pieces = start.split(b"\n")
    if len(pieces) < 3:  # a file in one line is judged by its strings
        pieces = start.split(b'"')
    utf8 = chinese = 0
    for left, piece in enumerate(pieces, 1 - len(pieces)):
        if not piece.isascii():
            valid = _is_utf8(piece, final=left < 0)  # the last piece may stop within a character
            utf8 += valid
            chinese += not valid and _looks_chinese(piece)
    return "gb18030" if chinese > utf8 else "utf-8"


def named_encoding(name: str, start: bytes) -> str:
    """The encoding the user names, with the byte order that the file shows; DataError for an unknown name."""
    try:
        known = codecs.lookup(name).name
        b" ".decode(name, "replace")  # rot13 and zlib are codecs, but not of text
    except LookupError:
        raise DataError(
            f"encoding: {name!r} is unknown; known are utf-8, gb18030, utf-16, latin-1, …"
        ) from None
    if known in ("utf-16", "utf-32"):
        marked = next((mark for bytes_, mark in _BOMS if start.startswith(bytes_)), "")
        return marked if marked.startswith(known) else f"{known}-le"
    return "gb18030" if known in ("gb2312", "gbk") else known  # which holds both


def lines(path: Path, encoding: str) -> Iterator[tuple[int, bytes, str]]:
    """(number from 1, bytes without newline, reason) of each line; a reason only where an archive breaks."""
    number = 0
    left: list[bytes] = []
    split = _wide_lines if encoding in _WIDTHS else _narrow_lines
    try:
        for raw in split(blocks(path), encoding, left):
            number += 1
            yield number, raw, ""
    except DataError as error:
        yield number + 1, b"".join(left), str(error)


def texts(path: Path, encoding: str) -> Iterator[str]:
    """The content as text, piece by piece, DAMAGED where undecodable; DataError at an archive's break."""
    if encoding in _WIDTHS:  # string by string: a lost byte must not shift all that follows
        for raw in _wide_pieces(blocks(path), encoding, '"', []):
            yield raw.decode(encoding, "seektune_damaged")
        return
    decoder = codecs.getincrementaldecoder(codec_of(encoding))("seektune_damaged")
    for block in blocks(path):
        yield decoder.decode(block)
    yield decoder.decode(b"", final=True)


def decoded(raw: bytes, encoding: str) -> tuple[str, str]:
    """(text, "") of a line, or (text as far as possible, the reason why it cannot be trusted)."""
    if encoding == "gb18030" and is_misread(raw):
        return raw.decode("utf-8"), _MISREAD
    try:
        text = raw.decode(codec_of(encoding))
    except UnicodeDecodeError as error:
        hint = " (it is valid gb18030)" if encoding != "gb18030" and _is_gb18030(raw) else ""
        reason = f"byte {error.start + 1} of the line is not {encoding} text{hint}"
        return raw.decode(codec_of(encoding), "seektune_damaged"), reason
    if "\0" in text:
        return text, "holds a NUL byte"
    return (text.removeprefix("\ufeff") if text[:1] == "\ufeff" else text), ""


def is_misread(raw: bytes) -> bool:
    """Whether a line of a gb18030 file is UTF-8: strictly valid, and not a few characters of common Chinese.

    A single Chinese character is often valid UTF-8 too (女 is Ů): up to three are what the file is, unless
    they stand like Latin ones, as é in "café".
    """
    if raw.isascii() or not _is_utf8(raw, final=True):
        return False
    return not _FEW_CHINESE.fullmatch(raw) or _LATIN.search(raw) is not None


def codec_of(encoding: str) -> str:
    """The codec for one line: the mark that utf-8-sig speaks of stands on the first line only."""
    return "utf-8" if encoding == "utf-8-sig" else encoding


def _open(path: Path, compression: str | None) -> IO[bytes]:
    if compression == "zst":
        try:
            import pyarrow
        except ImportError:
            raise DataError(f"{path} is zstd: reading it needs pip install 'seektune[data]'") from None
        return cast(IO[bytes], pyarrow.input_stream(str(path), compression="zstd"))
    opener: Any = {"gz": gzip.open, "xz": lzma.open}.get(compression or "", open)
    return cast(IO[bytes], opener(path, "rb"))


def _rest(path: Path, compression: str | None, given: int) -> bytes:
    """What can still be had after `given` bytes, where a reader of whole blocks gave up."""
    rest = bytearray()
    with _open(path, compression) as stream, suppress(*_TORN):
        while given > 0:
            given -= len(stream.read(min(_BLOCK, given)))
        while byte := stream.read(1):
            rest += byte
    return bytes(rest)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None


def _narrow_lines(source: Iterator[bytes], encoding: str, left: list[bytes]) -> Iterator[bytes]:
    """Lines without their newline; `left` holds the parts of the line that is not complete yet."""
    for block in source:
        first, *more = block.split(b"\n")
        left.append(first)
        if more:
            yield b"".join(left)
            left[:] = [more.pop()]
            yield from more
    if any(left):
        yield b"".join(left)


def _wide_lines(source: Iterator[bytes], encoding: str, left: list[bytes]) -> Iterator[bytes]:
    newline = "\n".encode(encoding)
    return (raw.removesuffix(newline) for raw in _wide_pieces(source, encoding, "\n", left))


def _wide_pieces(source: Iterator[bytes], encoding: str, mark: str, left: list[bytes]) -> Iterator[bytes]:
    """UTF-16 or UTF-32 cut after each `mark`; one off the grid counts when the right ASCII follows it.

    So a lost or added byte costs its own piece only.
    """
    unit, width = mark.encode(encoding), _WIDTHS[encoding]
    for block in source:
        at = max(sum(map(len, left)) - 2 * width, 0)
        text, start = b"".join((*left, block)), 0
        while 0 <= (at := text.find(unit, at)) <= len(text) - 2 * width:
            follows = text[at + width : at + 2 * width]
            value = int.from_bytes(follows, "little" if encoding.endswith("le") else "big")
            if (at - start) % width == 0 or value in _AFTER_MARK[mark]:
                yield text[start : at + width]
                start = at = at + width
            else:
                at += 1
        left[:] = [text[start:]]
    if any(left):
        yield b"".join(left)


def _is_utf8(piece: bytes, final: bool) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(piece, final)
    except UnicodeDecodeError:
        return False
    return True


def _is_gb18030(raw: bytes) -> bool:
    try:
        raw.decode("gb18030")
    except UnicodeDecodeError:
        return False
    return _looks_chinese(raw)


def _looks_chinese(piece: bytes) -> bool:
    """Whether most high bytes stand as in gb18030, in common pairs or in fours: accents in latin-1 do not."""
    high = sum(map(len, _HIGH_BYTES.findall(piece)))
    return 2 * sum(map(len, _CHINESE.findall(piece))) > high
