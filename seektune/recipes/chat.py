"""`seektune chat`: a conversation in the terminal; works piped as well.

Answers go to standard output and nothing else does; what the chat itself says goes to standard error. In a
pipe there is no prompt, and the first error ends the chat, since what follows would be answered wrongly.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from rich.console import Console

from seektune.errors import ConfigError, SeektuneError
from seektune.generation.request import Sampling
from seektune.recipes.adapted import open_adapted, opening
from seektune.recipes.asked_lines import in_terminal, lines
from seektune.recipes.conversation import BASE, Conversation
from seektune.recipes.interruption import interruption
from seektune.recipes.side_by_side import plain, watch

COMMANDS: Mapping[str, str] = {
    "/adapter": "lists the adapters; /adapter NAME lets that one answer from now on",
    "/base": "lets the base answer, without an adapter",
    "/compare": "has the last question, or the TEXT behind it, answered by base and adapters at once",
    "/system": "shows the system prompt; /system TEXT sets it and starts over, /system none removes it",
    "/new": "starts over",
    "/help": "shows this",
    "/quit": "ends the chat, as Ctrl-D does; Ctrl-C stops an answer",
}
_MEANS = {"/clear": "/new", "/exit": "/quit"}
_ALONE = ("/base", "/new", "/help", "/quit")


def run(
    model: str,
    *,
    adapters: Sequence[Path] = (),
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
) -> None:
    """Answer questions until the end of input; lines that begin with / are commands.

    A run folder's system prompt and prompt prefix are used as in training. Raises SeektuneError in a pipe.
    """
    sampling = Sampling(max_tokens=max_new_tokens, temperature=temperature, seed=seed)
    system, prefix = opening(model)
    loaded = open_adapted(model, adapters)
    chat = Conversation(loaded, sampling, system[0].content if system else "", prefix)
    typed = in_terminal()
    if typed:
        _note(f"{_who(chat)}; /help lists the commands")
    for line in lines(typed):
        try:
            if line.startswith("/"):
                if not _obey(chat, line, typed):
                    return
            else:
                _answer(chat, line, typed)
        except SeektuneError as error:
            if not typed:
                raise
            _note(str(error))


def _obey(chat: Conversation, line: str, typed: bool) -> bool:
    """Carry out one command and say what holds now; False where it ends the chat."""
    verb, _, rest = line.partition(" ")
    verb, rest = _MEANS.get(verb, verb), rest.strip()
    if verb not in COMMANDS:
        raise ConfigError(f"there is no command {verb}; there are\n{_help()}")
    if rest and verb in _ALONE:
        raise ConfigError(f"{verb} takes nothing behind it")
    match verb:
        case "/compare":
            _compare(chat, rest, typed)
        case "/help":
            _note(_help())
        case "/new":
            chat.turns.clear()
            _note("starting over")
        case "/system":
            if rest:
                chat.system = "" if rest == "none" else rest
                chat.turns.clear()
            _note(f"system prompt: {chat.system or 'none'}{'; starting over' if rest else ''}")
        case "/adapter" | "/base":
            if rest or verb == "/base":
                chat.switch(rest or BASE)
            _note(_who(chat))
    return verb != "/quit"


def _answer(chat: Conversation, question: str, typed: bool) -> None:
    with _stoppable(typed) as stopped, closing(chat.ask(question)) as pieces:
        for piece in pieces:
            print(piece, end="", flush=True)
            if stopped:
                break
        print(flush=True)


def _compare(chat: Conversation, question: str, typed: bool) -> None:
    with _stoppable(typed) as stopped, closing(chat.compare(question)) as answers:
        if typed:
            watch(answers, stopped, Console(emoji=False, highlight=False))
        else:
            *_, said = answers
            print(plain(said), flush=True)


@contextmanager
def _stoppable(typed: bool) -> Iterator[Sequence[int]]:
    """Within the block Ctrl-C asks for the answer's end, twice for the chat's; in a pipe once does."""
    if not typed:
        yield ()
        return
    with interruption(grace=1.0, told=False) as asked:
        yield asked
    if signal.SIGTERM in asked:
        signal.raise_signal(signal.SIGTERM)
    if asked:
        _note("stopped")


def _who(chat: Conversation) -> str:
    others = ", ".join(name for name in (*chat.adapters, BASE) if name != chat.answering)
    return f"{chat.answering} answers" + (f"; there is also {others}" if others else "")


def _help() -> str:
    return "\n".join(f"  {verb:<10}{text}" for verb, text in COMMANDS.items())


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
