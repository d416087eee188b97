"""Versions against their ranges, and extras."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from seektune.recipes import installation


def test_every_dependency_of_the_core_is_judged_against_its_range() -> None:
    torch = next(check for check in installation.core() if check.name == "torch")
    assert torch.fine
    assert torch.note.startswith("tested >=2.")


@pytest.mark.parametrize("found", ["0.0.1", None])
def test_a_version_outside_its_range_or_none_is_named_with_the_command_that_mends_it(
    found: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "installed", lambda name: found if name == "torch" else "1.0")
    torch = next(check for check in installation.core() if check.name == "torch")
    assert (torch.fine, torch.found) == (False, found or "missing")
    assert torch.note.startswith("pip install 'torch")


def test_a_missing_extra_is_no_fault_and_says_what_it_would_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "installed", lambda name: None)
    quant = next(check for check in installation.extras() if check.name == "quant")
    assert quant == ("quant", "missing", quant.note, True, None)
    assert quant.note.endswith("pip install 'seektune[quant]' adds bitsandbytes")


def test_every_extra_says_what_it_brings() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(installation.BRINGS) == set(project["optional-dependencies"])
