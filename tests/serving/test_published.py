"""What is published as a value, and as a file."""

from __future__ import annotations

import json

import pytest

from seektune.errors import AdapterError
from seektune.serving.published import Published, Version, read_published, write_published


def version(name: str, number: int) -> Version:
    return Version(f"{name}@{number}", name, f"{name}/{number}", f"{number:064}", 10)


ONE, TWO, OTHER = version("a", 1), version("a", 2), version("b", 1)


def test_a_name_means_its_latest_version_and_the_older_one_goes():
    published = Published().with_version(ONE).with_version(OTHER).with_version(TWO)
    assert published.key_of("a") == "a@2"
    assert published.key_of("a@1") is None
    assert published.key_of("a@2") == "a@2"
    assert published.versions.keys() == {"a@2", "b@1"}


def test_an_alias_keeps_its_version():
    published = Published(aliases={"stable": "a@1"}, versions={"a@1": ONE}, names={"a": "a@1"})
    after = published.with_version(TWO)
    assert after.key_of("stable") == after.key_of("a@1") == "a@1"
    assert after.key_of("a") == "a@2"
    assert after.aliases_of("a@1") == ["stable"]
    assert after.without(["a@2"]).key_of("a") is None


def test_versions_are_listed_with_their_aliases():
    published = Published(aliases={"stable": "a@1"}, versions={"a@1": ONE, "b@1": OTHER})
    assert [(one["key"], one["place"], one["aliases"]) for one in published.listed()] == [
        ("a@1", "a/1", ["stable"]),
        ("b@1", "b/1", []),
    ]


def test_the_same_version_again_changes_nothing():
    published = Published().with_version(ONE)
    assert published.with_version(ONE) == published


def test_the_file_says_the_value(tmp_path):
    published = Published({"a@1": ONE, "b@1": OTHER}, {"a": "a@1", "b": "b@1"}, {"x": "a@1"})
    write_published(tmp_path / "state.json", published)
    assert read_published(tmp_path / "state.json") == published
    assert read_published(tmp_path / "none.json") == Published()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"versions": {}, "names": {"a": "a@1"}, "aliases": {}}',
        '{"versions": {"a@1": {}}, "names": {}, "aliases": {}}',
        '{"versions": [], "names": {}, "aliases": {}}',
        '{"a":' * 50_000,
    ],
)
def test_a_damaged_file_is_an_error(content, tmp_path):
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(AdapterError):
        read_published(tmp_path / "state.json")


def test_a_version_under_another_key_is_an_error(tmp_path):
    write_published(tmp_path / "state.json", Published().with_version(ONE))
    content = json.loads((tmp_path / "state.json").read_text().replace('"a@1": {', '"a@3": {'))
    (tmp_path / "state.json").write_text(json.dumps(content))
    with pytest.raises(AdapterError, match="is damaged"):
        read_published(tmp_path / "state.json")


def test_a_file_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(AdapterError, match="nothing is changed"):
        write_published(tmp_path / "file" / "state.json", Published())
