"""Every command and every Python block of the READMEs, run in the order a reader meets them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.zh.md")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SUITE = {"make test", "make test-all", "make check", "make bench"}  # this file is part of them
DEMO = "make demo"


def blocks(readme: str, language: str) -> list[str]:
    text = (ROOT / readme).read_text(encoding="utf-8")
    return [body for name, body in BLOCK.findall(text) if name == language]


def commands(readme: str) -> list[str]:
    return [line for body in blocks(readme, "bash") for line in body.splitlines() if line.strip()]


def run(command: str, folder: Path) -> str:
    """Run one line in bash with this environment's `seektune` first on PATH; fail with what it printed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, env=os.environ | {"PATH": path}
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_both_readmes_show_the_same_commands_data_and_code() -> None:
    for language in ("bash", "jsonl", "python"):
        assert blocks("README.md", language) == blocks("README.zh.md", language)


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    for readme in READMES:
        named = set(re.findall(r"make ([\w-]+)", (ROOT / readme).read_text(encoding="utf-8")))
        assert named <= targets
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_commands_and_the_python_block_work_as_written(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(blocks("README.md", "jsonl")), encoding="utf-8")
    for command in commands("README.md"):
        if command not in SUITE | {DEMO}:
            run(command, tmp_path)
    assert (tmp_path / "runs" / "triage" / "report.html").is_file()
    for body in blocks("README.md", "python"):
        run(f"{shlex.quote(sys.executable)} -c {shlex.quote(body)}", tmp_path)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_the_demo_command_works_on_a_small_budget(tmp_path: Path) -> None:
    assert DEMO in commands("README.md")
    printed = run(f"{DEMO} ARGS='--max-steps 2 --output-dir {tmp_path}/demo'", ROOT)
    assert "TF-IDF" in printed
    assert (tmp_path / "demo" / "moe" / "report.html").is_file()
