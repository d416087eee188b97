"""The table of formats is consistent with itself."""

from __future__ import annotations

from typing import get_args

import pytest

from seektune.config.data import Format as FormatName
from seektune.data.formats.layouts import FORMATS, columns_of, unread
from seektune.errors import DataError


def test_the_configuration_names_the_same_formats() -> None:
    assert {"auto", *FORMATS} == set(get_args(FormatName))


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_format_needs_is_among_its_fields(name: str) -> None:
    layout = FORMATS[name]
    assert layout.needs
    assert {field for need in layout.needs for field in need} <= layout.columns.keys()
    assert all(layout.columns.values())


def test_columns_of_an_unknown_field_are_refused_with_the_known_ones() -> None:
    assert columns_of("text", {"text": "content"}) == {"text": ("content",)}
    with pytest.raises(DataError, match="text has no field 'body'; its fields: text"):
        columns_of("text", {"body": "content"})


def test_columns_that_would_not_be_read_are_named_unless_they_are_empty() -> None:
    record = {"id": 7, "prompt": "a", "question": "b", "response": "c", "note": None}
    assert unread(record, "alpaca") == ("id", "question")
    assert unread(record, "alpaca", {"input": "question"}) == ("id",)
