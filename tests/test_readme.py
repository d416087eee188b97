"""Every command and every Python block of the READMEs, run in the order a reader meets them."""

from __future__ import annotations

import json
import re
import shlex
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from documents import ROOT, blocks, free_port, read, run, served

READMES = ("README.md", "README.zh.md")
SUITE = {"make test", "make test-all", "make check", "make bench"}  # this file is part of them
DEMO = "make demo"


def bodies(readme: str, language: str) -> list[str]:
    return [block.body for block in blocks(readme) if block.language == language]


def commands(readme: str) -> list[str]:
    return [line for block in blocks(readme) for line in block.commands]


def test_both_readmes_show_the_same_commands_data_and_code() -> None:
    for language in ("bash", "jsonl", "python"):
        assert bodies("README.md", language) == bodies("README.zh.md", language)


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", read("Makefile"), re.MULTILINE))
    for readme in READMES:
        named = set(re.findall(r"make ([\w-]+)", read(readme)))
        assert named <= targets
    assert "make test" in read(".ci/run")


def test_the_commands_and_the_python_block_work_as_written(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(bodies("README.md", "jsonl")), encoding="utf-8")
    printed, port = {}, free_port()
    with ExitStack() as servers:
        for block in blocks("README.md"):
            lines = [line for line in block.commands if line not in SUITE | {DEMO}]
            if block.word == "serves":
                servers.enter_context(served(*lines, tmp_path, port))
                continue
            printed |= {line: run(line.replace(":8000", f":{port}"), tmp_path) for line in lines}
    answer = json.loads(printed[next(line for line in printed if "/v1/chat" in line)])
    assert answer["model"].startswith("triage@")
    every_row = r"train\.jsonl\s+classification\s+utf-8\s+8\s+8\s+0\s+0\n"
    assert re.search(every_row, printed["seektune prepare triage.yaml"])
    assert (tmp_path / "runs" / "triage" / "data" / "report.html").is_file()
    assert (tmp_path / "runs" / "triage" / "report.html").is_file()
    for body in bodies("README.md", "python"):
        run(f"{shlex.quote(sys.executable)} -c {shlex.quote(body)}", tmp_path)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_the_demo_command_works_on_a_small_budget(tmp_path: Path) -> None:
    assert DEMO in commands("README.md")
    printed = run(f"{DEMO} ARGS='--max-steps 2 --output-dir {tmp_path}/demo'", ROOT)
    assert "TF-IDF" in printed
    assert (tmp_path / "demo" / "moe" / "report.html").is_file()
