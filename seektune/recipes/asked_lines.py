"""The lines that somebody types, or that come through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress

from seektune.errors import ConfigError

PROMPT = "> "


def in_terminal() -> bool:
    """Whether somebody sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def lines(typed: bool) -> Iterator[str]:
    """Lines that say something, until the end of input; typed ones can be edited and brought back.

    Ctrl-C drops the line that is being typed. Raises ConfigError for input that is not text.
    """
    if typed:
        with suppress(ImportError):
            import readline  # noqa: F401  (from here on input() edits and remembers, until the program ends)
    while True:
        try:
            line = input(PROMPT if typed else "").strip()
            line.encode()
        except EOFError:
            if typed:
                print()
            return
        except KeyboardInterrupt:
            if not typed:
                raise
            print(file=sys.stderr)
            continue
        except UnicodeError as error:
            raise ConfigError(f"the input is not {sys.stdin.encoding} text: {error}") from None
        if line:
            yield line
