"""Keys, roles and which addresses may do without."""

from __future__ import annotations

from pathlib import Path

import pytest

from seektune.errors import ConfigError
from seektune.serving.auth import Keys, in_url, is_loopback, read_keys, refuse_open_address

FIRST, SECOND = "a" * 16, "b" * 40


def test_keys_come_from_a_file_and_the_environment(tmp_path: Path):
    path = tmp_path / "keys"
    path.write_text(f"# who may\n\nuse:{FIRST}\n  administer: {SECOND} \n", encoding="utf-8")
    keys = read_keys(path, {"SEEKTUNE_API_KEYS": f"use:{'c' * 16}, administer:{'d' * 16}"})
    assert [keys.role(k) for k in (FIRST, SECOND, "c" * 16, "d" * 16)] == ["use", "administer"] * 2
    assert [keys.role(k) for k in ("", FIRST[:-1], FIRST + " ", FIRST.upper(), "\ud800", "é")] == [None] * 6


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds no API key"),
        ("# nothing\n", "holds no API key"),
        (f"{FIRST}\n", "line 1: write use:KEY"),
        (f"\nroot:{FIRST}\n", "line 2: write use:KEY"),
        ("use:short-secret\n" * 0 + "use:short\n", "line 1: an API key is at least 16"),
        (f"use:{'é' * 16}\n", "line 1: an API key is at least 16"),
    ],
)
def test_a_wrong_line_is_named_and_not_repeated(tmp_path: Path, text: str, reason: str):
    path = tmp_path / "keys"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=reason) as refused:
        read_keys(path, {})
    assert FIRST not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="cannot read API keys from"):
        read_keys(tmp_path / "none", {})


def test_a_variable_that_holds_no_key_is_no_open_server():
    with pytest.raises(ConfigError, match="SEEKTUNE_API_KEYS holds no API key"):
        read_keys(None, {"SEEKTUNE_API_KEYS": " , # todo"})
    assert read_keys(None, {}) == Keys()


def test_keys_do_not_show_themselves():
    keys = read_keys(None, {"SEEKTUNE_API_KEYS": f"use:{FIRST}"})
    assert FIRST not in repr(keys)
    assert FIRST.encode() not in keys.roles[0][0]


def test_an_address_is_written_as_urls_have_it():
    assert [in_url(host) for host in ("127.0.0.1", "localhost", "::1")] == ["127.0.0.1", "localhost", "[::1]"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_keys(host: str):
    assert is_loopback(host)
    refuse_open_address(host, Keys())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "", "localhost.example.org"])
def test_any_other_address_does(host: str):
    with pytest.raises(ConfigError, match="there are no API keys"):
        refuse_open_address(host, Keys())
    refuse_open_address(host, read_keys(None, {"SEEKTUNE_API_KEYS": f"use:{FIRST}"}))
