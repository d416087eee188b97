"""Lines of a pipe; the terminal's are in test_chat."""

from __future__ import annotations

import io
import sys

import pytest

from seektune.errors import ConfigError
from seektune.recipes.asked_lines import in_terminal, lines


def piped(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> list[str]:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))
    return list(lines(typed=False))


def test_lines_come_without_the_space_around_them_and_empty_ones_not_at_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert piped(monkeypatch, " 你好 \r\n\n  \nlast".encode()) == ["你好", "last"]
    assert capsys.readouterr() == ("", "")
    assert not in_terminal()


def test_input_that_is_no_text_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="the input is not utf-8 text"):
        piped(monkeypatch, "你好\n".encode("gb18030"))


def test_ctrl_c_drops_a_typed_line_and_ends_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        said = iter([KeyboardInterrupt, "hello"])

        def __call__(self, _: str) -> str:
            try:
                word = next(self.said)
            except StopIteration:
                raise EOFError from None
            if word is KeyboardInterrupt:
                raise KeyboardInterrupt
            return str(word)

    monkeypatch.setattr("builtins.input", Interrupted())
    assert list(lines(typed=True)) == ["hello"]
    Interrupted.said = iter([KeyboardInterrupt])
    with pytest.raises(KeyboardInterrupt):
        list(lines(typed=False))
    assert sys.stdin is not None
