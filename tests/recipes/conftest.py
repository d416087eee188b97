"""A tiny finished run, trained once for all recipe tests."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from engine_runs import far_folder
from rich.console import Console
from tiny_runs import tiny_config, write_rows

from seektune.recipes import train


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run; what was printed is in `printed.txt` beside it."""
    folder = tmp_path_factory.mktemp("runs")
    write_rows(folder / "rows.jsonl")
    page = io.StringIO()
    run = train.run(tiny_config(folder), console=Console(file=page, width=120))
    (folder / "printed.txt").write_text(page.getvalue(), encoding="utf-8")
    return run


@pytest.fixture(scope="session")
def far(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an adapter `far` of tiny/deepseek_v3 whose answers are not the base's."""
    return far_folder("deepseek_v3", tmp_path_factory.mktemp("adapters") / "far")
