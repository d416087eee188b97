"""Where adapters lie under a root, and every way out of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from seektune.errors import AdapterError
from seektune.serving.catalog import Places, find, scan


def test_an_adapter_is_its_folder_a_runs_or_the_last_of_its_versions(root, put):
    for place in ("flat", "run/adapter", "many/2", "many/10", "many/v1"):
        put(place, 0)
    (root / "many" / "empty").mkdir()
    assert find(root, "flat").place == "flat"
    assert find(root, "run").place == "run/adapter"
    assert find(root, "many").place == "many/v1"
    assert find(root, "many", "10").folder == root / "many" / "10"
    assert dict(scan(root)).keys() == {"flat", "run", "many"}


def test_versions_are_in_natural_order(root, put):
    for version in ("9", "10", "8b"):
        put(f"a/{version}", 0)
    assert find(root, "a").place == "a/10"


def test_what_is_not_there_is_named_with_what_is(root, put):
    put("a/1", 0)
    (root / "empty").mkdir()
    with pytest.raises(AdapterError, match="a/2 is no adapter; versions: 1"):
        find(root, "a", "2") if (root / "a" / "2").mkdir() is None else None
    with pytest.raises(AdapterError, match="holds no adapter"):
        find(root, "empty")
    with pytest.raises(AdapterError, match=r"no adapter 'nothing' to load; there are: a$") as missing:
        find(root, "nothing")
    assert missing.value.kind == "missing"
    with pytest.raises(AdapterError, match="a/3 is no adapter; versions: 1"):
        find(root, "a", "3")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc", "a\\b\x00", ".hidden", "-x", "a\n", "é", "x" * 129]
)
def test_a_name_is_one_plain_path_component(name, root):
    with pytest.raises(AdapterError, match="is no name"):
        find(root, name)
    with pytest.raises(AdapterError, match="is no name"):
        find(root, "a", name)


def test_links_out_of_the_root_are_no_adapters(root, put, tmp_path):
    put("a/1", 0)
    (root / "a" / "1").rename(tmp_path / "outside")
    (root / "whole").symlink_to(tmp_path / "outside")
    (root / "a" / "2").symlink_to(tmp_path / "outside")
    (root / "run").mkdir()
    (root / "run" / "adapter").symlink_to(tmp_path / "outside")
    (root / "ring").symlink_to("ring")
    for name, version in (("whole", None), ("run", None), ("a", "2"), ("ring", None)):
        with pytest.raises(AdapterError):
            find(root, name, version)
    found = dict(scan(root))
    assert found.keys() == {"whole", "run"}
    assert all(isinstance(what, AdapterError) and "leads outside" in str(what) for what in found.values())


def test_links_within_the_root_are_followed(root, put):
    put("a/1", 0)
    (root / "b").symlink_to("a/1")
    assert find(root, "b").place == "a/1"


def test_a_root_that_is_itself_a_link_is_the_place_it_means(root, put, tmp_path):
    put("a", 0)
    (tmp_path / "link").symlink_to(root)
    assert find(Path(tmp_path / "link"), "a").folder == root / "a"


def test_fixed_folders_may_be_anywhere_and_win_over_the_root(root, put, contents):
    put("a/1", 0)
    places = Places(root, {"a": contents[1], "b": contents[2]})
    assert places.find("a").folder == contents[1].resolve()
    assert places.root_of("a") is None
    assert places.root_of("c") == root.resolve()
    assert dict(places.scan()) == {}
    with pytest.raises(AdapterError, match="a has no versions"):
        places.find("a", "1")
    with pytest.raises(AdapterError, match="neither itself nor"):
        put("c/x/1", 0) and places.find("c")
    with pytest.raises(AdapterError, match="is no name"):
        Places(root, {"../a": contents[0]})


def test_without_a_root_there_are_only_fixed_folders(contents):
    places = Places(None, {"a": contents[0]})
    assert places.find("a").name == "a"
    with pytest.raises(AdapterError, match="no adapter root"):
        places.find("b")
    assert not list(places.scan())
