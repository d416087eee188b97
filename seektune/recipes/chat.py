"""`seektune chat`: a conversation in the terminal; works piped as well."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from seektune.adapters.attach import activate, active_adapter
from seektune.adapters.attach import adapters as resident
from seektune.errors import SeektuneError
from seektune.generation.generate import stream
from seektune.models.load import Loaded
from seektune.recipes.adapted import open_adapted, opening
from seektune.types import Message

HELP = "/adapter lists, /adapter NAME switches, /base uses no adapter, /new forgets, /exit ends"


def run(
    model: str,
    *,
    adapters: Sequence[Path] = (),
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    console: Console | None = None,
) -> None:
    """Read questions until the end of input; lines that begin with / are commands.

    A run folder's system prompt and prompt prefix are used as in training.
    """
    console = console or Console(highlight=False, markup=False)
    loaded = open_adapted(model, adapters)
    system, prefix = opening(model)
    console.print(HELP)
    history = [*system]
    for line in _lines(console):
        if line.startswith("/"):
            if line in ("/exit", "/quit"):
                return
            if line == "/new":
                history = [*system]
            console.print(command(loaded, line))
            continue
        history.append(Message("user", prefix + line))
        answer = ""
        for piece in stream(
            loaded, history, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
        ):
            answer += piece
            console.print(piece, end="", soft_wrap=True)
        console.print()
        history.append(Message("assistant", answer))


def command(loaded: Loaded, line: str) -> str:
    """Carry out one / command and say what holds now; the history stays when adapters are switched."""
    verb, _, name = line.partition(" ")
    if verb == "/new":
        return "forgotten"
    if verb == "/base":
        activate(loaded, None)
    elif verb == "/adapter" and name:
        try:
            activate(loaded, name.strip())
        except SeektuneError as error:
            return str(error)
    elif verb != "/adapter":
        return HELP
    names = ", ".join(resident(loaded)) or "none"
    return f"adapter: {active_adapter(loaded) or 'none (base)'}; resident: {names}"


def _lines(console: Console) -> Iterator[str]:
    while True:
        try:
            line = console.input("> " if console.is_terminal else "").strip()
        except EOFError:
            return
        if line:
            yield line
