"""`seektune doctor`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from seektune.recipes import doctor, installation


def printed(width: int = 80, **options: bool) -> tuple[bool, str]:
    page = io.StringIO()
    return doctor.run(console=Console(file=page, width=width), **options), page.getvalue()


def test_a_complete_installation_is_fine_and_says_so() -> None:
    fine, page = printed()
    assert fine
    assert page.endswith("everything that training needs is here\n")
    assert all(f"\n{title}\n" in f"\n{page}" for title in ("core", "machine", "kernels", "disk", "extras"))


def test_every_terminal_shows_it_whatever_its_width_and_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setattr("seektune.recipes.machine.hub_cache", lambda: Path("/"))
    _, page = printed()
    page.encode("ascii")
    assert max(map(len, page.splitlines())) <= 80


def test_what_the_core_lacks_fails_and_is_named_last(monkeypatch: pytest.MonkeyPatch) -> None:
    real = installation.installed
    monkeypatch.setattr(installation, "installed", lambda name: None if name == "torch" else real(name))
    fine, page = printed()
    assert not fine
    assert "\n! torch " in page
    assert page.splitlines()[-1] == "to mend: torch"


def test_json_has_every_check_under_its_section_and_name() -> None:
    fine, page = printed(as_json=True)
    found = json.loads(page)
    assert list(found) == ["fine", "core", "machine", "kernels", "disk", "extras"]
    assert found["fine"] is fine is True
    assert found["disk"]["runs"]["value"] > 0
    keys = {tuple(check) for title in list(found)[1:] for check in found[title].values()}
    assert keys == {("found", "note", "fine", "value")}
