"""`seektune chat`, piped."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from seektune.recipes import chat


def talk(monkeypatch: pytest.MonkeyPatch, model: str, lines: list[str]) -> str:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
    page = io.StringIO()
    chat.run(model, max_new_tokens=4, console=Console(file=page, width=200, highlight=False, markup=False))
    return page.getvalue()


def test_adapters_are_listed_switched_off_and_on(monkeypatch: pytest.MonkeyPatch, finished: Path) -> None:
    printed = talk(monkeypatch, str(finished), ["/adapter", "/base", "/adapter run", "/adapter none"])
    lines = printed.splitlines()
    assert lines[1:4] == [
        "adapter: run; resident: run",
        "adapter: none (base); resident: run",
        "adapter: run; resident: run",
    ]
    assert "no adapter named 'none'" in lines[4]


def test_a_conversation_goes_on_until_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = talk(monkeypatch, "tiny/llama", ["Hello", "", "/new", "/what", "/exit", "not read"])
    assert "forgotten" in printed
    assert printed.count(chat.HELP) == 2
    assert printed.rstrip().endswith(chat.HELP)
