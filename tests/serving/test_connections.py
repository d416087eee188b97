"""Sockets that say nothing, or not enough, keep nobody out for long; one too many hears why."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

import pytest
from servers import Running, running

from seektune.models.load import load_model

MOST, SECONDS = 4, 1.0


@pytest.fixture
def at() -> Iterator[Running]:
    with running(load_model("tiny/llama"), max_connections=MOST, header_timeout=SECONDS) as server:
        yield server


@pytest.fixture
def patient() -> Iterator[Running]:
    with running(load_model("tiny/llama"), max_connections=MOST, header_timeout=60) as server:
        yield server


def sockets(at: Running, stack: ExitStack, count: int = 1) -> list[socket.socket]:
    address = urlsplit(at.url)
    return [
        stack.enter_context(socket.create_connection((address.hostname, address.port), timeout=30))
        for _ in range(count)
    ]


@pytest.mark.parametrize("said", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_headers_that_do_not_come_end_their_connection(at: Running, said: bytes) -> None:
    with ExitStack() as stack:
        began = time.monotonic()
        (one,) = sockets(at, stack)
        one.sendall(said)
        assert one.recv(1) == b""
        assert time.monotonic() - began > SECONDS / 2


def test_more_bytes_are_no_more_time(at: Running) -> None:
    with ExitStack() as stack:
        (one,) = sockets(at, stack)
        one.sendall(b"GET /health HTTP/1.1\r\nX: ")
        began = time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - began < 60:
                one.sendall(b"x")
                time.sleep(0.1)
        assert time.monotonic() - began < 60


def test_the_headers_of_a_next_call_are_waited_for_as_long(at: Running) -> None:
    with ExitStack() as stack:
        (one,) = sockets(at, stack)
        one.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        said = b""
        while not said.endswith(b"}"):
            said += one.recv(4096)
        assert b"200 OK" in said
        one.sendall(b"GET /hea")
        assert one.recv(4096) == b""


def test_a_call_that_takes_longer_than_its_headers_may_is_answered(at: Running) -> None:
    body = {"model": "tiny/llama", "prompt": "x", "ignore_eos": True, "max_tokens": 3000}
    began = time.monotonic()
    assert at.call("POST", "/v1/completions", json=body).status_code == 200
    assert time.monotonic() - began > SECONDS


def test_a_call_that_came_with_another_is_given_its_time_too(at: Running) -> None:
    body = json.dumps({"model": "tiny/llama", "prompt": "x", "ignore_eos": True, "max_tokens": 3000}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    asked = f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
    with ExitStack() as stack:
        (one,) = sockets(at, stack)
        one.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n" + asked)
        said = b""
        while more := one.recv(65536):
            said += more
    assert said.count(b"200 OK") == 2
    assert b'"completion_tokens":3000' in said


def test_a_connection_too_many_is_told_so_and_whoever_watches_is_answered(patient: Running) -> None:
    with ExitStack() as stack:
        sockets(patient, stack, MOST)
        refused = patient.call("GET", "/v1/models")
        assert refused.status_code == 503
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["message"].startswith("4 connections are open")
        assert patient.call("GET", "/health").status_code == patient.call("GET", "/ready").status_code == 200
    while patient.call("GET", "/v1/models").status_code == 503:  # until the server has seen them go
        time.sleep(0.05)
    assert 'seektune_refused_total{status="503"}' in patient.call("GET", "/metrics").text


def test_the_last_connection_is_served(patient: Running) -> None:
    with ExitStack() as stack:
        sockets(patient, stack, MOST - 1)
        assert patient.call("GET", "/v1/models").status_code == 200
