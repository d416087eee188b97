"""A record's fields are found under their columns, and every complaint names the place and the column."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.data.formats.fields import Fields, images_of, listed, mapped, shown, tools_of, view
from seektune.data.records import Record
from seektune.errors import DataError

COLUMNS = {"answer": ("answer", "response"), "images": ("images", "image"), "tools": ("tools",)}


def fields(columns: Any = COLUMNS, **record: Any) -> Fields:
    return Fields("rows.jsonl:7", record, columns)


def test_the_first_column_with_a_value_is_read() -> None:
    assert fields(response="b").get("answer") == "b"
    assert fields(answer=None, response="b").text("answer") == "b"
    assert fields(answer="a", response="b").column("answer") == "answer"
    assert fields(response=None).column("answer") == "response"
    assert fields().column("answer") == "answer"


def test_a_missing_column_is_not_the_same_as_an_empty_one() -> None:
    with pytest.raises(DataError, match=r"^rows.jsonl:7: `answer` is missing; the record has id, text$"):
        fields(id=1, text="x").need("answer")
    assert fields(answer=None).need("answer") is None
    with pytest.raises(DataError, match=r"`response` must be text, is None"):
        fields(response=None).text("answer")


def test_optional_text_may_be_missing_or_empty_but_not_something_else() -> None:
    assert [fields(**given).maybe("answer") for given in ({}, {"answer": None}, {"answer": " "})] == [""] * 3
    with pytest.raises(DataError, match=r"`answer` must be text, is \[1\]"):
        fields(answer=[1]).maybe("answer")


def test_a_record_is_seen_with_its_place() -> None:
    seen = view(Record("rows.parquet", 3, {"answer": "x"}, group=2), COLUMNS)
    assert (seen.row_id, seen.text("answer")) == ("rows.parquet:2:3", "x")


def test_a_chosen_column_is_read_for_its_field_only_and_an_empty_name_reads_none() -> None:
    known = {"input": ("input", "context"), "instruction": ("instruction",), "system": ("system",)}
    assert mapped(known, {}) is known
    assert mapped(known, {"instruction": "input", "system": ""}) == {
        "input": ("context",),
        "instruction": ("input",),
        "system": (),
    }


@pytest.mark.parametrize("tools", [None, "", "[]", []])
def test_no_tools_are_an_empty_text(tools: Any) -> None:
    assert tools_of(fields(tools=tools)) == ""


def test_tools_stay_as_given_when_text_and_become_json_when_objects() -> None:
    assert tools_of(fields(tools='[ {"name": "f"} ]')) == '[ {"name": "f"} ]'
    assert tools_of(fields(tools=[{"name": "查"}])) == '[{"name": "查"}]'


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ("[{", "is not JSON"),
        ('{"name": 1}', "must be a JSON list"),
        ([1], "must be a JSON list"),
        (3, "list"),
    ],
)
def test_tools_of_another_shape_are_refused(tools: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"rows.jsonl:7: `tools` {said}|`tools` must .*{said}"):
        tools_of(fields(tools=tools))


@pytest.mark.parametrize(
    ("given", "paths"),
    [
        ({}, []),
        ({"image": "a.png"}, ["a.png"]),
        ({"images": ["a.png", "b.png"]}, ["a.png", "b.png"]),
        ({"images": [{"path": "a.png", "bytes": None}]}, ["a.png"]),
        ({"images": [{"image": {"url": "http://x/a.png"}}]}, ["http://x/a.png"]),
    ],
)
def test_images_are_a_path_or_a_list_of_them(given: Any, paths: list[str]) -> None:
    assert images_of(fields(**given)) == paths


def test_an_image_without_a_path_is_refused() -> None:
    with pytest.raises(DataError, match="`images` must name an image by path"):
        images_of(fields(images=[{"bytes": b"\x89PNG", "path": None}]))


def test_errors_stay_short_whatever_the_value() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    assert len(shown("x" * 10**6)) <= 60
    assert len(shown(deep)) <= 60
    assert listed(map(str, range(40))).endswith("29 and 10 more")


def tried(read: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What `read` returns, or the DataError it raises."""
    try:
        return read(*args, **named)
    except DataError as error:
        return error


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(json_values)
def test_any_value_is_read_or_refused_with_its_place(value: Any) -> None:
    for read in (tools_of, images_of, lambda seen: seen.text("answer"), lambda seen: seen.maybe("answer")):
        found = tried(read, fields(answer=value, images=value, tools=value))
        assert not isinstance(found, DataError) or str(found).startswith("rows.jsonl:7: `")
