"""Places, and bodies that are too large, too slow or of another kind."""

from __future__ import annotations

import socket
import time

import pytest
from servers import running

from seektune.models.load import load_model
from seektune.serving.limits import Gate
from seektune.serving.refusal import Refusal


def test_a_gate_takes_as_many_as_it_has_places_and_gives_them_back():
    gate = Gate(3)
    gate.enter(2)
    with pytest.raises(Refusal) as refused:
        gate.enter(2)
    assert (refused.value.status, refused.value.headers) == (429, {"Retry-After": "1"})
    gate.enter(1)
    gate.leave(3)
    gate.enter(3)
    with pytest.raises(Refusal, match="3 are the most") as refused:
        gate.enter(4)
    assert refused.value.status == 400  # no patience helps


def exchange(url: str, *parts: bytes, pause: float = 0.0) -> bytes:
    """What a server says to raw bytes."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(pause)
        said = b""
        while more := connection.recv(65536):
            said += more
        return said


HEAD = (
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\n"
)
CHUNK = b"40\r\n" + b" " * 64 + b"\r\n"


def test_a_body_is_bounded_in_size_and_time_however_it_comes():
    with running(load_model("tiny/llama"), max_body_bytes=100, body_timeout=0.5) as at:
        # Nothing after the byte too many: what a closed connection still gets makes it reset the answer.
        chunked = exchange(at.url, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", CHUNK * 2)
        assert chunked.startswith(b"HTTP/1.1 413")
        claimed = exchange(at.url, HEAD + b"Content-Length: 101\r\n\r\n")
        assert claimed.startswith(b"HTTP/1.1 413")
        slow = exchange(at.url, HEAD + b"Content-Length: 90\r\n\r\n{")
        assert slow.startswith(b"HTTP/1.1 408")
        assert b"did not arrive within 0.5 seconds" in slow
        assert at.call("GET", "/ready").status_code == 200
