"""One record under our names: which column holds a field, what it says, and errors that name the place."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from seektune.data.records import Record
from seektune.errors import DataError

Columns = Mapping[str, tuple[str, ...]]
"""Our field name → the columns it may stand under; the first that is there is read."""
MOST_NAMES = 30
"""Names that an error lists."""


@dataclass(frozen=True, slots=True)
class Fields:
    """A record seen through `columns`; `row_id` opens every error."""

    row_id: str
    record: Mapping[str, Any]
    columns: Columns

    def get(self, field: str) -> Any:
        """The field's value, or None where no column has one."""
        for column in self.columns.get(field, ()):
            value = self.record.get(column)
            if value is not None:
                return value
        return None

    def column(self, field: str) -> str:
        """The column the field is read from in this record; the field's own name where there is none."""
        names = self.columns.get(field, ())
        there = [name for name in names if name in self.record]
        return next((name for name in there if self.record[name] is not None), (*there, *names, field)[0])

    def has(self, field: str) -> bool:
        """Whether any column of the field is there, empty or not."""
        return any(column in self.record for column in self.columns.get(field, ()))

    def need(self, field: str) -> Any:
        """The field's value, None included; DataError where its column is missing."""
        value = self.get(field)
        if value is None and not self.has(field):
            raise self.wrong(f"`{self.column(field)}` is missing; the record has {listed(self.record)}")
        return value

    def text(self, field: str) -> str:
        """Text that is more than spaces, as it stands."""
        value = self.need(field)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(f"`{self.column(field)}` must be text, is {shown(value)}")
        return value

    def maybe(self, field: str) -> str:
        """Text that may be missing, null or empty: then `""`."""
        value = self.get(field)
        if value is None or (isinstance(value, str) and not value.strip()):
            return ""
        if not isinstance(value, str):
            raise self.wrong(f"`{self.column(field)}` must be text, is {shown(value)}")
        return value

    def plain(self, what: str, value: Any) -> str:
        """A short text; a number becomes its digits."""
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        raise self.wrong(f"{what} must be text or a number, is {shown(value)}")

    def wrong(self, what: str) -> DataError:
        """The error to raise, opened by the place."""
        return DataError(f"{self.row_id}: {what}")


def view(record: Record, columns: Columns) -> Fields:
    """The record through `columns`."""
    return Fields(record.row_id, record.fields, columns)


def mapped(known: Columns, columns: Mapping[str, str]) -> Columns:
    """`known` with the user's choices: a chosen column is read for its field only, `""` reads none."""
    if not columns:
        return known
    taken = set(columns.values())
    free = {
        field: tuple(name for name in names if field not in columns and name not in taken)
        for field, names in known.items()
    }
    return free | {field: (column,) if column else () for field, column in columns.items()}


def shown(value: Any) -> str:
    """A value for an error message, cut to 60 characters."""
    text = repr(value[:61]) if isinstance(value, str) else reprlib.repr(value)  # nesting has no end
    return text if len(text) <= 60 else text[:57] + "..."


def listed(names: Iterable[str]) -> str:
    """The first names of a list for an error message, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - MOST_NAMES} more" if len(every) > MOST_NAMES else ""
    return ", ".join(str(name)[:60] for name in every[:MOST_NAMES]) + more


def tools_of(fields: Fields) -> str:
    """The functions an assistant may call, as JSON text of a list; `""` where there are none."""
    value = fields.get("tools")
    if value is None or value == [] or value in ("", "[]"):
        return ""
    schemas = json_value(fields, f"`{fields.column('tools')}`", value) if isinstance(value, str) else value
    if not isinstance(schemas, list) or not all(isinstance(schema, dict) for schema in schemas):
        raise fields.wrong(f"`{fields.column('tools')}` must be a JSON list of functions, is {shown(value)}")
    if not schemas:
        return ""
    return value if isinstance(value, str) else json_text(fields, f"`{fields.column('tools')}`", schemas)


def json_value(fields: Fields, what: str, text: str) -> Any:
    """What a JSON text holds; DataError where it is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise fields.wrong(f"{what} is not JSON ({error}): {shown(text)}") from None


def json_text(fields: Fields, what: str, value: Any) -> str:
    """A value as JSON text; DataError where JSON has no place for it."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise fields.wrong(f"{what} cannot be written as JSON ({error}): {shown(value)}") from None


def images_of(fields: Fields) -> list[str]:
    """Paths of the record's images: a list of them, or a single one."""
    value = fields.get("images")
    if value is None or value == "":
        return []
    what = f"`{fields.column('images')}`"
    return [image_path(fields, what, item) for item in (value if isinstance(value, list) else [value])]


def image_path(fields: Fields, what: str, value: Any) -> str:
    """A path or address: the text itself, or `url`, `path` or `image` of an object."""
    found = next(_paths(value), None)
    if found is None:
        raise fields.wrong(f"{what} must name an image by path, is {shown(value)}")
    return found


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.strip():
        yield value
    elif isinstance(value, dict):
        for key in ("url", "path", "image"):
            yield from _paths(value.get(key))
