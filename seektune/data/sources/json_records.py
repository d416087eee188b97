"""JSON lines, arrays and single objects as records; one damaged byte costs one record, not the rest."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from json.decoder import JSONDecodeError
from pathlib import Path
from typing import Any

from seektune.data.records import RAW_BYTES, Bad, Record, escaped
from seektune.data.sources.decoding import DAMAGED, decoded, is_misread, lines, texts
from seektune.errors import DataError

_CONSTANTS = {"NaN": None, "Infinity": float("inf"), "-Infinity": float("-inf")}
"""What Python and pandas write although it is not JSON; NaN is their word for a missing value."""

_BETWEEN = re.compile(r"[\s,\[\]\ufeff]*")
_AFTER = re.compile(r"\s*([,\]]|\Z)")
_START = re.compile(r'\{\s*"')
_LOOK_BACK = 256  # characters kept before an element, to see how it is indented
_PIECE = 1 << 18  # characters read at least at a time
_ENOUGH = 10  # good elements from which it is known how elements are built
_CUT_SHORT = 16  # an error this close to the end of the window may only mean that more has to be read


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise DataError(f"the key {twice!r} occurs twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_CONSTANTS.__getitem__)
_SKIPPER = json.JSONDecoder(parse_int=str)  # finds the end of what the other one refuses


def parse(text: str) -> dict[str, Any]:
    """The JSON object that a line holds; DataError with the reason where it is none that can be used."""
    try:
        value = _DECODER.decode(text)
    except JSONDecodeError as error:
        raise DataError(_said(error, f"column {error.colno}")) from None
    except RecursionError:
        raise DataError("not usable JSON: nested too deeply") from None
    except DataError:
        raise
    except ValueError as error:  # a number of thousands of digits
        raise DataError(f"not usable JSON: {error}") from None
    return _usable(value, text)


def is_lines(start: str, suffix: str) -> bool:
    """Whether a file that starts so, up to a line's end, has an object a line: not one array or object.

    `suffix` decides where a damaged start leaves it open.
    """
    rows = [row.rstrip() for row in start.split("\n") if row.strip()]
    whole = sum(row.startswith("{") and row.endswith("}") for row in rows)
    if 2 * whole >= len(rows):
        return True
    opening = start.lstrip("\ufeff \t\r\n")
    enclosed = re.match(r"\[\s*(\{|\]|\Z)|\{\s*\n", opening)
    return suffix in (".jsonl", ".ndjson") and not (enclosed and whole == 0)


def read_lines(path: Path, encoding: str) -> Iterator[Record | Bad]:
    """The records of a file with one JSON object a line; blank lines are skipped."""
    file = str(path)
    for number, raw, cut in lines(path, encoding):
        if (not raw or raw.isspace()) and not cut:
            continue
        text, reason = decoded(raw, encoding)
        reason = cut or reason
        if not reason:
            try:
                record = Record(file, number, parse(text))
            except DataError as error:
                reason = str(error)
            else:
                yield record
                continue
        yield Bad(file, number, reason, escaped(raw))


def read_elements(path: Path, encoding: str) -> Iterator[Record | Bad]:
    """The objects of a JSON array, or one after the other, each with the line it starts on.

    The file is never held as a whole. After a broken element reading goes on at the next object that is
    indented and built like the elements before.
    """
    file = str(path)
    window, reason = _Window(texts(path, encoding)), ""
    while window.next_element():
        line = window.line()
        try:
            value, end = window.decode(_DECODER)
        except DataError as error:
            reason = str(error)
            yield Bad(file, line, reason, escaped(window.skip_broken()))
            continue
        element = window.text[window.at : end]
        try:
            record = Record(file, line, _usable(value, element, encoding))
        except DataError as error:
            yield Bad(file, line, str(error), escaped(element))
        else:
            window.learn(record.fields)
            yield record
        window.at = end
    if window.torn not in ("", reason):
        yield Bad(file, window.line(), window.torn, "")


def _usable(value: Any, text: str, encoding: str = "") -> dict[str, Any]:
    """`value` if it is an object, all of whose text is text."""
    if not isinstance(value, dict):
        raise DataError(f"is a JSON {type(value).__name__}; a record is one JSON object {{...}}")
    if "\\ud" in text or "\\uD" in text:  # an escaped half of a surrogate pair parses
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise DataError("holds half of a surrogate pair (\\ud800 to \\udfff), which is no text") from None
    if encoding and DAMAGED in text:
        raise DataError(f"holds bytes that are not {encoding} text")
    if encoding == "gb18030" and any(map(is_misread, text.encode(encoding).split(b"\n"))):
        raise DataError("holds utf-8 text in a gb18030 file")
    return value


def _said(error: JSONDecodeError, place: str) -> str:
    if error.doc[error.pos : error.pos + 1] == "\0":
        return "holds a NUL byte"
    return f"not valid JSON: {error.msg.removesuffix(' at')} at {place}"


@dataclass(slots=True)
class _Window:
    """The part of a long JSON text that is held; `at` is where the next element starts."""

    source: Iterator[str]
    text: str = ""
    at: int = 0
    dropped: int = 0  # characters that stood before `text`
    torn: str = ""  # why the text ended early
    keys: frozenset[str] = frozenset()  # that every good element has
    learned: int = 0  # number of those
    indent: str | None = None  # of elements that start on a line of their own
    counted: int = 0  # position up to which newlines are counted
    newlines: int = 0

    def line(self) -> int:
        """The line, from 1, on which `at` stands."""
        self.newlines += self.text.count("\n", self.counted, self.at)
        self.counted = self.at
        return self.newlines + 1

    def fill(self) -> bool:
        """Forgets what lies before `at` and reads on, at least doubling what is held; False at the end."""
        self.line()
        drop = max(self.at - _LOOK_BACK, 0)
        held = self.text[drop:]
        parts, read = [held], 0
        self.at = self.counted = self.at - drop
        self.dropped += drop
        try:
            while read <= max(len(held), _PIECE) and (piece := next(self.source, "")):
                parts.append(piece)
                read += len(piece)
        except DataError as error:
            self.torn = str(error)
        self.text = "".join(parts)
        return read > 0

    def next_element(self) -> bool:
        """Moves past commas, brackets and space to where an element starts; False at the end."""
        while True:
            found = _BETWEEN.match(self.text, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.text):
                return True
            if not self.fill():
                return False

    def decode(self, decoder: json.JSONDecoder) -> tuple[Any, int]:
        """The value that starts at `at` and its end in `text`; DataError where it is broken."""
        while True:
            try:
                value, end = decoder.raw_decode(self.text, self.at)
            except JSONDecodeError as error:
                open_end = error.pos >= len(self.text) - _CUT_SHORT or error.msg.startswith("Unterminated")
                if open_end and self.fill():
                    continue
                line = self.line() + self.text.count("\n", self.at, error.pos)
                raise DataError(self.torn or _said(error, f"line {line}")) from None
            except RecursionError:
                raise DataError("not usable JSON: nested too deeply") from None
            except DataError:
                raise
            except ValueError as error:
                raise DataError(f"not usable JSON: {error}") from None
            if isinstance(value, dict) or _AFTER.match(self.text, end):
                return value, end
            raise DataError(f"not valid JSON: expected an object on line {self.line()}")

    def learn(self, fields: dict[str, Any]) -> None:
        """Takes note of how a good element is built and indented, unless it is like none before."""
        common = self.keys & fields.keys()
        if common or not self.keys:
            self.keys = common or frozenset(fields)
            self.learned += 1
            self.indent = self._indent()

    def skip_broken(self) -> str:
        """Moves to the next element that can be trusted to be one; the start of what is skipped."""
        raw, begin = self.text[self.at : self.at + RAW_BYTES], self.dropped + self.at
        try:
            _, self.at = self.decode(_SKIPPER)
        except DataError:
            if self.learned < _ENOUGH:  # too few to rely on: they may be parts of a broken one
                self.fill()
                commonest = self._commonest_keys()
                if not commonest & self.keys:
                    self.keys, self.indent = commonest, None
            self.at += 1
            while not self._is_element():
                pass
        return raw[: self.dropped + self.at - begin].rstrip(" ,\r\n\t")

    def _is_element(self) -> bool:
        """Moves to the next object and tells whether it is built as an element; True at the end as well."""
        found = _START.search(self.text, self.at)
        if not found:
            self.at = max(self.at, len(self.text) - _CUT_SHORT)
            ended = not self.fill()
            self.at = len(self.text) if ended else self.at
            return ended
        self.at = found.start()
        try:
            value, end = self.decode(_DECODER)
        except DataError:
            self.at += 1
            return False
        if self.keys <= value.keys() and self.indent in (None, self._indent()):
            return True
        self.at = end
        return False

    def _commonest_keys(self) -> frozenset[str]:
        """Keys of the kind of object that takes most of the text held: elements, not what is within them."""
        extents: Counter[frozenset[str]] = Counter()
        at = self.at
        while found := _START.search(self.text, at):
            at = found.start()
            try:
                value, end = _SKIPPER.raw_decode(self.text, at)
            except (ValueError, RecursionError):
                at += 1
            else:
                extents[frozenset(value)] += end - at
                at = end
        return max(extents, key=extents.__getitem__, default=frozenset())

    def _indent(self) -> str | None:
        start = self.text.rfind("\n", max(self.at - _LOOK_BACK, 0), self.at)
        before = self.text[start + 1 : self.at]
        return before if start >= 0 and not before.strip() else None
