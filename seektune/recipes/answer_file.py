"""Answers to the questions of a file, one a line, written so that a run ended at any moment can go on."""

from __future__ import annotations

import fcntl
import json
import os
import time
from array import array
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

from seektune.data.records import Bad
from seektune.errors import ConfigError

_START = b'{"line": '
_SYNC_SECONDS = 1.0  # what a crash of the machine, not of this process, may cost


def bad_path(path: Path) -> Path:
    """The file beside a file of answers that holds the rows without one."""
    return path.with_suffix(".errors.jsonl")


class AnswerFile:
    """Lines of JSON in the order in which the answers came, and beside them the rows that have none.

    A line names its question's line and content and the settings it was made with: `question` and
    `settings`, 16 hex digits of their hashes. A last line that was cut short is taken away. The rows without
    an answer are written anew by every run, so that mended ones are answered.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it. Raises ConfigError where that fails, or it holds anything else."""
        self.path, self.bad_path = path, bad_path(path)
        self.answered = self.bad = 0  # rows with and without an answer
        self._questions = array("Q")  # by line: the hash of the question that was answered, or 0
        self._settings: str | None = None
        self._begun = False
        self._bad: BinaryIO | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with ExitStack() as opening:
                self._file = opening.enter_context(path.open("ab"))
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._end = self._read()
                opening.pop_all()
        except BlockingIOError:
            raise ConfigError(
                f"another process is writing {path}: let it end, or name another file"
            ) from None
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None
        self._synced = time.monotonic()

    def holds(self, line: int, question: str) -> bool:
        """Whether the row has its answer. Raises ConfigError where another question stood there."""
        known = self._questions[line] if line < len(self._questions) else 0
        if known and known != int(question, 16):
            raise ConfigError(
                f"line {line} is not the question that {self.path} holds an answer to: rows may be added at "
                "the end and bad ones mended; for anything else name another file"
            )
        return known != 0

    def check_end(self, last: int) -> None:
        """Raise ConfigError where rows behind line `last`, the end of the questions, were answered."""
        if last < len(self._questions) - 1:
            raise ConfigError(f"{self.path} answers line {len(self._questions) - 1} of {last}: rows are gone")

    def begin(self, settings: str) -> None:
        """Take answers from now on: what was cut short, and the rows without an answer, are gone.

        Raises ConfigError where the answers so far were made with other settings.
        """
        self._check_settings(settings)
        self._begun = True
        self._file.truncate(self._end)
        self.bad_path.unlink(missing_ok=True)

    def _check_settings(self, settings: str) -> None:
        if self._settings not in (None, settings):
            raise ConfigError(
                f"{self.path} was begun with another model, adapter, system prompt, --max-new-tokens, "
                "--temperature or --seed: repeat the command as it was, or name another file"
            )
        self._settings = settings

    def append(self, line: int, question: str, answer: dict[str, Any]) -> None:
        """Add an answer; it outlives this process when this returns."""
        whole = {"line": line, **answer, "question": question, "settings": self._settings}
        self._file.write(json.dumps(whole, ensure_ascii=False).encode() + b"\n")
        self._file.flush()
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()
        self.answered += 1

    def append_bad(self, bad: Bad) -> None:
        """Note a row that has no answer, with the reason."""
        self._bad = self._bad or self.bad_path.open("wb")
        self._bad.write(json.dumps(bad.to_json(), ensure_ascii=False).encode() + b"\n")
        self._bad.flush()
        self.bad += 1

    def close(self) -> None:
        """Let go of the file, which is on the disk then; one that was made for nothing is gone."""
        os.fsync(self._file.fileno())
        if not self._begun and not os.fstat(self._file.fileno()).st_size:
            self.path.unlink()
        self._file.close()
        if self._bad is not None:
            self._bad.close()

    def _read(self) -> int:
        """Note what is answered; the bytes of whole lines."""
        end = 0
        with self.path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                if not raw.endswith(b"\n") and _START.startswith(raw[: len(_START)].rstrip(b"\0")):
                    break
                try:
                    self._note(json.loads(raw))
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise ConfigError(
                        f"{self.path}:{number} is no answer of this command: name another file"
                    ) from None
                end += len(raw)
        return end

    def _note(self, answer: dict[str, Any]) -> None:
        line = answer["line"]
        if len(self._questions) <= line:
            self._questions.extend([0] * (line + 1 - len(self._questions)))
        self._questions[line] = int(answer["question"], 16)
        self._check_settings(answer["settings"])
        self.answered += 1
