"""`seektune chat` as a program: in a pipe, and in a terminal."""

from __future__ import annotations

import io
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from seektune.errors import ConfigError
from seektune.generation.generate import generate
from seektune.recipes import chat
from seektune.recipes.adapted import open_adapted
from seektune.types import Message

BASE = "tiny/deepseek_v3"
CHAT = [sys.executable, "-m", "seektune", "chat"]


def said(far: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat in this process whose input is a pipe's."""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    chat.run(BASE, adapters=[far], max_new_tokens=6)


def test_a_pipe_gets_the_answers_and_nothing_else(far: Path) -> None:
    done = subprocess.run(
        [*CHAT, BASE, "--adapter", str(far), "--max-new-tokens", "6"],
        input="the eye hurts\n\n皮肤痒\n/base\n/new\nthe eye hurts\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    loaded = open_adapted(BASE, [far])
    turns = [Message("user", "the eye hurts")]
    first = generate(loaded, turns, max_new_tokens=6).text
    turns += [Message("assistant", first), Message("user", "皮肤痒")]
    second = generate(loaded, turns, max_new_tokens=6).text
    base = generate(loaded, turns[:1], max_new_tokens=6, adapter=None).text
    assert done.stdout == f"{first}\n{second}\n{base}\n"
    assert done.stderr.splitlines() == ["base answers; there is also far", "starting over"]
    assert done.returncode == 0


def test_a_comparison_in_a_pipe_names_who_says_what(
    far: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said(far, "/compare the eye hurts\n/quit\nnot read\n", monkeypatch)
    assert re.fullmatch(r"== base ==\n.*\n== far ==\n.*\n", capsys.readouterr().out, re.DOTALL)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("/adaptor far", "there is no command /adaptor; there are"),
        ("/adapter nobody", "there is no adapter 'nobody'; there is far, base"),
        ("/base far", "/base takes nothing behind it"),
        ("/compare", "nothing was asked yet"),
    ],
)
def test_in_a_pipe_the_first_error_ends_the_chat(
    far: Path,
    line: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ConfigError, match=reason):
        said(far, f"{line}\nthe eye hurts\n", monkeypatch)
    assert capsys.readouterr().out == ""


def test_a_run_s_system_prompt_is_there_from_the_start_and_can_be_taken_away(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    config = run / "run.yaml"
    config.write_text(config.read_text().replace("system_prompt: ''", "system_prompt: 'Be brief.'"))
    monkeypatch.setattr("sys.stdin", io.StringIO("/system\n/system none\n/system Be long.\n"))
    chat.run(str(run))
    assert capsys.readouterr().err.splitlines() == [
        "system prompt: Be brief.",
        "system prompt: none; starting over",
        "system prompt: Be long.; starting over",
    ]


@contextmanager
def typing(model: str, *options: str) -> Iterator[Terminal]:
    """A chat with somebody in front of it."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = subprocess.Popen(
        [*CHAT, model, *options],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        # A suite in the background ignores SIGINT, and so would its children.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    try:
        yield Terminal(ours, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


class Terminal:
    def __init__(self, end: int, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._end = end
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def interrupt(self, shown: str) -> None:
        """Ctrl-C at the prompt; once more where it fell between two of readline's looks at the keys.

        CPython waits for a key then, with the signal noted and not acted on.
        """
        self.process.send_signal(signal.SIGINT)
        try:
            self.wait_for(shown, 5)
        except AssertionError:
            self.process.send_signal(signal.SIGINT)
            self.wait_for(shown)

    def wait_for(self, pattern: str, seconds: float = 60) -> str:
        """What was shown up to where `pattern` ends, since the last time."""
        until = time.monotonic() + seconds
        while not (found := re.search(pattern, self._seen)):
            assert time.monotonic() < until, f"no {pattern!r} in {self._seen!r}"
            if select.select([self._end], [], [], 0.2)[0]:
                try:
                    self._seen += os.read(self._end, 65536).decode(errors="replace").replace("\r\n", "\n")
                except OSError:  # the other end is closed
                    assert re.search(pattern, self._seen), self._seen
        shown, self._seen = self._seen[: found.end()], self._seen[found.end() :]
        return shown


def test_in_a_terminal_the_chat_goes_on_after_errors_and_ctrl_c_until_ctrl_d(far: Path) -> None:
    with typing(BASE, "--adapter", str(far), "--max-new-tokens", "100000", "--temperature", "1") as terminal:
        assert "far answers; there is also base" in terminal.wait_for("\n.*> ")
        terminal.type("/what\n")
        told = terminal.wait_for("/quit .*\n.*> ")
        assert "there is no command /what; there are" in told
        assert all(verb in told for verb in chat.COMMANDS)
        for question, ended in (("Hello", "stopped"), ("/compare Hello", "stopped")):
            terminal.type(f"{question}\n")
            terminal.wait_for(f"{question}\n(.|\n)+?.")
            terminal.process.send_signal(signal.SIGINT)
            terminal.wait_for(f"{ended}\n.*> ")
        terminal.type("half a question")
        terminal.wait_for("question")
        terminal.interrupt("> ")
        terminal.type("/base\n")
        terminal.wait_for("base answers; there is also far\n.*> ")
        terminal.type("\x1b[A\x1b[A\n")  # two lines back
        terminal.wait_for("┃(.|\n)+?.")
        terminal.process.send_signal(signal.SIGINT)
        terminal.wait_for("stopped\n.*> ")
        terminal.type("\x04")
        assert terminal.process.wait(60) == 0
