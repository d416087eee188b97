"""The blocks of a Markdown page, and its commands run as a reader would run them.

The word behind a block's language says what the block is: a file to save under that name, `output` of the
block before, a command that `fails`, or one that `serves` while the blocks after it are run.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]

_FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    language: str
    word: str
    body: str

    @property
    def commands(self) -> list[str]:
        """The lines of a bash block."""
        return [line for line in self.body.splitlines() if line.strip()] if self.language == "bash" else []


def read(page: str) -> str:
    """The page's text; `page` is its path in the project."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(*found) for found in _FENCE.findall(read(page))]


def run(command: str, folder: Path) -> str:
    """Run one line in bash with this environment's `seektune` first on PATH; fail with what it printed."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, env=os.environ | {"PATH": path}
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def served(command: str, folder: Path, port: int, seconds: float = 400) -> Iterator[str]:
    """A command that serves on `port` until kill -9 at the end of the block; what it had printed."""
    command += f" --port {port}" if command.startswith("seektune ") else ""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    own = {"PATH": path, "PORT": str(port), "PYTHONUNBUFFERED": "1"}
    printed = folder / "server.log"
    with (
        printed.open("w") as log,
        subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | own,
            start_new_session=True,
        ) as server,
    ):
        try:
            until = time.monotonic() + seconds
            while not _answers(port):
                assert server.poll() is None, printed.read_text(encoding="utf-8")[-4000:]
                assert time.monotonic() < until, printed.read_text(encoding="utf-8")[-4000:]
                time.sleep(0.2)
            yield printed.read_text(encoding="utf-8")
        finally:
            os.killpg(server.pid, 9)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _answers(port: int) -> bool:
    try:
        httpx.get(f"http://127.0.0.1:{port}/health", timeout=30)
    except httpx.TransportError:
        return False
    return True


def missing(shown: str, printed: str) -> list[str]:
    """The lines of an output block that were not printed, in this order; `…` stands for anything."""
    lines = [line.strip() for line in printed.splitlines()]
    absent = []
    for line in filter(None, map(str.strip, shown.splitlines())):
        pattern = re.compile(".*".join(map(re.escape, line.split("…"))))
        at = next((at for at, found in enumerate(lines) if pattern.fullmatch(found)), None)
        if at is None:
            absent.append(line)
        else:
            lines = lines[at + 1 :]
    return absent
