"""Callers who leave, answers that take too long, prompts that are too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import httpx
import openai
import pytest
from servers import Running, running

from seektune.models.load import load_model
from seektune.serving import prompts

HELLO = [{"role": "user", "content": "Hello"}]
LONG = {"model": "tiny/llama", "max_tokens": 3900, "ignore_eos": True}


@pytest.fixture(scope="module")
def alone() -> Iterator[Running]:
    with running(load_model("tiny/llama"), max_prompt_tokens=100) as at:
        yield at


def soon(what: Callable[[], bool]) -> bool:
    """Whether `what` comes to hold within a minute."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        if what():
            return True
        time.sleep(0.02)
    return False


def under_way(at: Running) -> int:
    stats = at.service.backend.worker.stats
    return stats.running + stats.waiting


def test_a_reader_that_leaves_frees_its_places(alone: Running):
    body = LONG | {"messages": HELLO, "stream": True, "n": 3}
    with httpx.stream("POST", f"{alone.url}/v1/chat/completions", json=body, timeout=60) as answer:
        next(answer.iter_raw())
    assert soon(lambda: under_way(alone) == 0)
    assert alone.service.backend.worker.stats.generated_tokens < 3 * 3900


def test_a_caller_that_leaves_before_the_answer_frees_its_places(alone: Running):
    generated = alone.service.backend.worker.stats.generated_tokens
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{alone.url}/v1/completions", json=LONG | {"prompt": "x"}, timeout=0.5)
    assert soon(lambda: under_way(alone) == 0)
    assert alone.service.backend.worker.stats.generated_tokens - generated < 3900


def test_a_caller_that_leaves_while_its_prompt_is_read_frees_its_place(monkeypatch: pytest.MonkeyPatch):
    held = threading.Event()
    monkeypatch.setattr(prompts, "encode_prompt", lambda *_: held.wait(60) and [5])
    body = {"model": "tiny/llama", "max_tokens": 1}
    with running(load_model("tiny/llama"), max_concurrent_requests=1) as at:
        try:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{at.url}/v1/completions", json=body | {"prompt": "x"}, timeout=0.5)
            tokens = body | {"prompt": [5]}  # which nobody has to read
            assert soon(lambda: at.call("POST", "/v1/completions", json=tokens).status_code == 200)
        finally:
            held.set()


def test_an_answer_that_takes_too_long_says_so():
    asked = {"model": "tiny/llama", "prompt": "x", "n": 16, "max_tokens": 3900}
    asked["extra_body"] = {"ignore_eos": True}
    with running(load_model("tiny/llama"), request_timeout=1) as at:
        client = at.openai()
        with pytest.raises(openai.APIStatusError, match="request_timeout") as refused:
            client.completions.create(**asked)
        assert refused.value.status_code == 504
        stream = client.completions.create(**asked, stream=True)
        with pytest.raises(openai.APIError, match="request_timeout"):
            list(stream)
        assert soon(lambda: under_way(at) == 0)


@pytest.mark.parametrize("prompt", ["x" * 100, "x" * 500_000, [5] * 101, ["ok", "x" * 100]])
def test_a_prompt_that_is_too_long_is_told_its_limit(alone: Running, prompt):
    got = alone.call("POST", "/v1/completions", json={"model": "tiny/llama", "prompt": prompt})
    assert got.status_code == 400
    assert got.json()["error"]["code"] == "context_length_exceeded"
    assert "100" in got.json()["error"]["message"]


@pytest.mark.parametrize("prompt", [[], [[]], [10**6], [-1], [[5], [10**9]]])
def test_a_prompt_of_no_tokens_of_the_model_is_refused(alone: Running, prompt):
    got = alone.call("POST", "/v1/completions", json={"model": "tiny/llama", "prompt": prompt})
    assert got.status_code == 400, got.text
    assert "prompt" in got.json()["error"]["message"]
