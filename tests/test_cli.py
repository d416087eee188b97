"""The command line: its verbs are frozen, and errors are one message without a traceback."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from seektune.cli import app


def seektune(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "seektune", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_the_verbs_are_exactly_these() -> None:
    verbs = [command.callback.__name__ for command in app.registered_commands if command.callback]
    assert verbs == [
        "demo",
        "init",
        "prepare",
        "estimate",
        "train",
        "evaluate",
        "diagnose",
        "generate",
        "chat",
        "serve",
        "export",
        "doctor",
    ]


def test_the_version_is_that_of_the_package() -> None:
    assert seektune("--version").stdout == f"seektune {version('seektune')}\n"


def test_init_names_the_next_command(tmp_path: Path) -> None:
    done = seektune("init", "medical", folder=tmp_path)
    assert done.stdout.strip() == "wrote medical.yaml; next: seektune prepare medical.yaml"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "none.yaml"), "error: cannot read none.yaml"),
        (("evaluate", "."), "error: . is not a run folder"),
        (("diagnose", "."), "error: . is not a run folder"),
        (("export", ".", "--to", "vllm", "--out", "new"), "error: . is not a run folder"),
    ],
)
def test_our_errors_are_one_message_and_exit_code_two(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = seektune(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr
