"""`seektune doctor`."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from seektune.recipes import doctor


def test_a_complete_installation_is_fine_and_says_so() -> None:
    page = io.StringIO()
    assert doctor.run(Console(file=page, width=200))
    assert all(name in page.getvalue() for name in ("torch", "transformers", "bf16", "seektune[serve]"))


def test_a_version_outside_its_range_is_named_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor, "installed", lambda name: "0.0.1" if name == "torch" else "1.0")
    torch_line = next(finding for finding in doctor.core() if finding.name == "torch")
    assert not torch_line.fine
    assert torch_line.advice.startswith("pip install 'torch")


def test_a_missing_extra_is_no_fault() -> None:
    assert all(finding.fine for finding in doctor.extras())
