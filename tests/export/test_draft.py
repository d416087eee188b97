"""A folder appears complete or not at all, and replaces nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from seektune.errors import ConfigError
from seektune.export.draft import draft_of


def test_the_folder_is_there_when_the_block_ends_and_nothing_else_is(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with draft_of(out) as draft:
        (draft / "file").write_text("x")
        assert not out.exists()
    assert (out / "file").read_text() == "x"
    assert list(out.parent.iterdir()) == [out]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), draft_of(tmp_path / "out") as draft:
        (draft / "file").rename(draft / "other")
    assert not list(tmp_path.iterdir())


def test_what_exists_is_not_replaced_even_when_it_came_meanwhile(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="exists already"), draft_of(out):
        out.mkdir()
    with pytest.raises(ConfigError, match="exists already"), draft_of(out):
        pytest.fail("the block must not run")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="exists already"), draft_of(tmp_path / "dangling"):
        pytest.fail("the block must not run")
