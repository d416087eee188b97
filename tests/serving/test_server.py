"""A real process: addresses, and what signals do."""

from __future__ import annotations

import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import httpx
import pytest
from serve_load import process

from seektune.config.serving import serve_config
from seektune.errors import ConfigError
from seektune.models.load import load_model
from seektune.serving.auth import Keys
from seektune.serving.server import listen, open_service

LONG = {"model": "tiny/llama", "prompt": "x", "ignore_eos": True, "stream": True, "temperature": 0}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_answers_come_to_their_end_and_takes_no_new_ones(number: signal.Signals):
    with process("tiny/llama") as (server, url):
        body = LONG | {"max_tokens": 600}
        with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.send_signal(number)
            rest = list(lines)
        assert rest[-2:] == ["data: [DONE]", ""]
        assert '"finish_reason":"length"' in "".join(rest)
        assert server.wait(60) in (-number, 128 + number, 130)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")


@pytest.mark.parametrize("end", ["the time is over", "a second signal", "a third signal"])
def test_answers_that_are_not_complete_in_time_end_with_a_reason(end: str):
    drain = 1 if end == "the time is over" else 600
    with process("tiny/llama", ["--set", f"serving.drain_timeout={drain}"]) as (server, url):
        body = LONG | {"max_tokens": 4000, "n": 8}
        with ThreadPoolExecutor(2) as pool:
            whole = pool.submit(post, f"{url}/v1/completions", body | {"stream": False})
            with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120) as answer:
                lines = answer.iter_lines()
                next(lines)
                for _ in range({"the time is over": 1, "a second signal": 2, "a third signal": 3}[end]):
                    server.send_signal(signal.SIGTERM)
                    time.sleep(0.3)  # signals of one kind that wait together are one
                rest = list(lines) if end != "a third signal" else []
            assert server.wait(30) != 0
            if end == "a third signal":
                return
            assert '"the server was shut down before the answer was complete"' in rest[-2]
            answer = whole.result(60)
            assert (answer.status_code, answer.json()["error"]["type"]) == (503, "server_error")


def post(url: str, body: dict[str, Any]) -> httpx.Response | None:
    with suppress(httpx.RemoteProtocolError, httpx.ReadError):
        return httpx.post(url, json=body, timeout=120)
    return None


def test_an_open_address_without_keys_is_refused():
    with pytest.raises(ConfigError, match="there are no API keys"):
        open_service(load_model("tiny/llama"), serve_config({"host": "0.0.0.0"}), Keys())


def test_an_address_is_listened_on_without_delay_or_refused_by_name():
    with listen(serve_config({"port": 0}).serving) as listening:
        assert listening.proto == socket.IPPROTO_TCP  # else asyncio leaves Nagle's delay on
        port = listening.getsockname()[1]
        listening.listen()
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1, port {port}: Address already"):
            listen(serve_config({"port": port}).serving)
    with pytest.raises(ConfigError, match=r"cannot listen on no\.such"):
        listen(serve_config({"host": "no.such.host.invalid"}).serving)
