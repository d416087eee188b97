"""Every block of the user guide: files are saved, commands and Python run, and what is shown is printed.

What a page serves listens on port 8000, in the tests on any free one.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from documents import ROOT, Block, blocks, free_port, missing, read, run, served

from seektune import cli
from seektune.config.data import CleaningConfig, DataConfig, DedupConfig
from seektune.config.engine import EngineConfig
from seektune.config.run import RunConfig
from seektune.config.section import validated
from seektune.config.serving import ServingConfig
from seektune.config.training import HealthConfig, TrainingConfig
from seektune.config.triton import TritonExport
from seektune.data.formats.layouts import FORMATS
from seektune.data.templates.lint import NAMES

GUIDES = tuple(sorted(path.stem for path in (ROOT / "docs" / "guide").glob("*.md") if "." not in path.stem))
BOTH = [f"docs/guide/{name}{ending}" for name in GUIDES for ending in (".md", ".zh.md")]
SHELL = re.compile(r"[|<>;&$]")
WIDTH = "100"
TRITON, VLLM = ROOT / ".venv-triton", ROOT / ".venv-vllm"
SLOW = {  # they start processes of their own
    "scale-out": [pytest.mark.slow],
    "triton": [
        pytest.mark.slow,
        pytest.mark.skipif(
            not (TRITON / ".installed").exists(), reason="`make triton-env` makes .venv-triton"
        ),
    ],
    "vllm": [
        pytest.mark.slow,
        pytest.mark.skipif(not (VLLM / "bin" / "vllm").exists(), reason="`make vllm-env` makes .venv-vllm"),
    ],
}


@pytest.fixture(autouse=True)
def _no_server_is_left(tmp_path: Path) -> Iterator[None]:
    yield
    for file in tmp_path.glob("*.pid"):
        with suppress(ProcessLookupError):
            os.kill(int(file.read_text()), signal.SIGKILL)


@pytest.fixture
def servers() -> Iterator[ExitStack]:
    """What a page has started to serve, ended with it."""
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in GUIDES])
def test_every_block_works_as_written(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    servers: ExitStack,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", WIDTH)
    monkeypatch.setenv("TRITON_ENV", str(TRITON))
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{VLLM / 'bin'}")
    page = blocks(f"docs/guide/{name}.md")
    port = free_port() if any(block.word == "serves" for block in page) else 8000
    printed = ""
    for written in page:
        block = replace(written, body=written.body.replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
        if block.word == "serves":
            servers.close()  # the one before, if any
            printed = servers.enter_context(served(" ".join(block.commands), tmp_path, port))
        elif block.word == "output":
            assert missing(block.body, printed) == [], printed
        elif block.language == "bash":
            printed = "".join(_printed_by(line, block, monkeypatch, capsys) for line in block.commands)
        elif block.language == "python":
            Path("block.py").write_text(block.body, encoding="utf-8")
            runpy.run_path("block.py", run_name="__main__")
            printed = capsys.readouterr().out
        elif block.word:
            path = Path(block.word)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.body, encoding="utf-8")
        else:
            _check_fragment(block)


def _printed_by(
    command: str, block: Block, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What a line prints; seektune's own run in this process, where all is imported already."""
    words = shlex.split(command)
    if words[0] != "seektune" or SHELL.search(re.sub(r"'[^']*'", "", command)):
        return run(command, Path.cwd())
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as left:
        cli.main()
    printed = capsys.readouterr()
    assert bool(left.value.code) == (block.word == "fails"), f"{command}\n{printed.out}\n{printed.err}"
    return printed.out + printed.err


def _check_fragment(block: Block) -> None:
    """A nameless block is a part of a configuration."""
    assert block.language == "yaml", f"a block of {block.language} that nothing reads"
    tree = {"base_model": "tiny/deepseek_v3", "output_dir": "runs/x", **yaml.safe_load(block.body)}
    tree["data"].setdefault("train", "train.jsonl")
    validated(RunConfig, tree, "the guide")


@pytest.mark.parametrize("name", GUIDES)
def test_both_languages_show_the_same_blocks(name: str) -> None:
    assert blocks(f"docs/guide/{name}.md") == blocks(f"docs/guide/{name}.zh.md")


@pytest.mark.parametrize("page", BOTH)
def test_every_file_of_a_block_is_named_in_the_text_before_it(page: str) -> None:
    for block in blocks(page):
        if block.word not in ("", "output", "fails", "serves"):
            before = read(page).partition(f"```{block.language} {block.word}\n")[0]
            assert f"`{block.word}`" in before, f"{page} shows {block.word} without its name"


@pytest.mark.parametrize("page", BOTH)
def test_every_link_leads_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^):]+)\)", read(page))
    headings = re.findall(r"^#+ (.+)$", read(page), re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    assert [link for link in links if link not in anchors and not (folder / link).is_file()] == []


@pytest.mark.parametrize("page", ["docs/guide/data.md", "docs/guide/data.zh.md"])
def test_the_page_on_data_names_every_key_format_and_finding(page: str) -> None:
    text = read(page)
    names = {*DataConfig.model_fields, *CleaningConfig.model_fields, *DedupConfig.model_fields}
    assert [name for name in sorted({*names, *FORMATS, *NAMES}) if name not in text] == []
    mentioned = set(re.findall(r"`data\.(\w+)", text))
    assert mentioned <= set(DataConfig.model_fields)


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("training", set(TrainingConfig.model_fields) - {"objective"}),  # there is one so far
        ("instability", set(HealthConfig.model_fields)),
        ("triton", set(TritonExport.model_fields) - {"serving", "engine"}),
        ("serving", {*ServingConfig.model_fields, *EngineConfig.model_fields}),
        ("scale-out", {path.name for path in (ROOT / "examples" / "launch").glob("*.yaml")}),
    ],
)
def test_the_other_pages_name_every_setting(page: str, names: set[str]) -> None:
    for ending in (".md", ".zh.md"):
        text = read(f"docs/guide/{page}{ending}")
        assert [name for name in sorted(names) if f"`{name}" not in text] == []


@pytest.mark.parametrize("readme", ["README.md", "README.zh.md"])
def test_the_readme_leads_to_the_guides(readme: str) -> None:
    ending = ".zh.md" if ".zh" in readme else ".md"
    assert [name for name in GUIDES if f"(docs/guide/{name}{ending})" not in read(readme)] == []
