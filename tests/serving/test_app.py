"""The API as the official client and plain HTTP see it."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import httpx
import openai
import pytest
from servers import ADMINISTER, KEYS, USE, Running, running

from seektune.config.serving import serve_config
from seektune.errors import AdapterError
from seektune.generation.generate import generate
from seektune.models.load import load_model
from seektune.serving.backend import STATE
from seektune.serving.server import open_service

HELLO = [{"role": "user", "content": "Hello"}]
ROUTES = [
    ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/v1/models"),
    ("GET", "/v1/models/A"), ("GET", "/health"), ("GET", "/ready"), ("GET", "/metrics"),
    ("GET", "/v1/adapters"),
    ("POST", "/v1/adapters"), ("POST", "/v1/adapters/alias"), ("DELETE", "/v1/adapters/A"),
    ("DELETE", "/v1/adapters/alias/x"), ("POST", "/"), ("HEAD", "/"), ("OPTIONS", "/"),
    ("GET", "//"), ("GET", "/%2f"), ("GET", "/index.html"), ("GET", "/docs"),
    ("GET", "/openapi.json"), ("GET", "/static/x.js"), ("OPTIONS", "/health"),
    ("DELETE", "/v1/models"), ("GET", "/favicon.ico"), ("TRACE", "/nowhere"), ("GET", "//v1/models"),
]  # fmt: skip


def test_a_chat_answers_as_generate_does(server: Running):
    want = generate(load_model("tiny/llama"), HELLO, max_new_tokens=6)
    got = server.openai(USE).chat.completions.create(
        model="tiny/llama", messages=HELLO, max_tokens=6, temperature=0
    )
    assert got.choices[0].message.content == want.text
    assert got.choices[0].finish_reason == want.finish_reason == "length"
    assert got.usage.completion_tokens == 6
    assert got.usage.total_tokens == got.usage.prompt_tokens + 6
    assert got.object == "chat.completion"


def test_a_stream_joins_to_the_whole_answer_and_ends_with_usage(server: Running):
    client = server.openai(USE)
    asked = {"model": "A", "messages": HELLO, "max_tokens": 40, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    chunks = list(
        client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "A" * 40
    assert whole.choices[0].message.content == "A" * 40
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == [None] * (len(chunks) - 2) + ["length"]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 40
    assert chunks[-1].choices == []


def test_model_names_who_answers(server: Running):
    client = server.openai(USE)
    for name in ("A", "B"):
        got = client.chat.completions.create(model=name, messages=HELLO, max_tokens=8, temperature=0)
        assert got.choices[0].message.content == name * 8
        assert got.model.split("@")[0] == name
        exact = client.chat.completions.create(model=got.model, messages=HELLO, max_tokens=8, temperature=0)
        assert exact.choices[0].message.content == name * 8
    base = client.chat.completions.create(model="tiny/llama", messages=HELLO, max_tokens=8, temperature=0)
    assert not set(base.choices[0].message.content) <= {"A", "B"}
    assert [model.id for model in client.models.list()] == ["tiny/llama", "A", "B"]
    assert client.models.retrieve("tiny/llama").id == "tiny/llama"
    with pytest.raises(openai.NotFoundError, match=r"'C' is not served: .*; served: tiny/llama, A, B"):
        client.chat.completions.create(model="C", messages=HELLO)


def test_completions_take_texts_and_tokens_and_number_their_choices(server: Running):
    client = server.openai(USE)
    got = client.completions.create(
        model="B", prompt=["Hello", "World"], n=2, max_tokens=5, temperature=0, logprobs=2
    )
    assert [choice.index for choice in got.choices] == [0, 1, 2, 3]
    assert {choice.text for choice in got.choices} == {"BBBBB"}
    assert got.choices[0].logprobs.tokens == ["B"] * 5
    assert got.choices[0].logprobs.text_offset == [0, 1, 2, 3, 4]
    assert all(len(top) == 2 for top in got.choices[0].logprobs.top_logprobs)
    one = client.completions.create(model="B", prompt="Hello", max_tokens=1, temperature=0)
    assert got.usage.prompt_tokens == 2 * one.usage.prompt_tokens
    assert got.usage.completion_tokens == 20
    tokens = client.completions.create(model="B", prompt=[[0, 75, 104], [0, 90]], max_tokens=3, temperature=0)
    assert [choice.text for choice in tokens.choices] == ["BBB", "BBB"]
    assert (
        client.completions.create(model="B", prompt=[0, 75], max_tokens=3, temperature=0).choices[0].text
        == "BBB"
    )
    streamed = client.completions.create(
        model="B", prompt=["x", "y"], max_tokens=9, temperature=0, stream=True
    )
    texts = ["", ""]
    for chunk in streamed:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == ["B" * 9] * 2


def test_a_seed_repeats_an_answer_and_parts_its_choices(server: Running):
    client = server.openai(USE)
    asked = {"model": "tiny/llama", "messages": HELLO, "max_tokens": 12, "temperature": 1, "seed": 5, "n": 3}
    texts = [
        [choice.message.content for choice in client.chat.completions.create(**asked).choices]
        for _ in range(2)
    ]
    assert texts[0] == texts[1]
    assert len(set(texts[0])) == 3


def test_stop_strings_and_logprobs_reach_the_engine(server: Running):
    client = server.openai(USE)
    got = client.chat.completions.create(
        model="A", messages=HELLO, stop="AAA", max_tokens=20, temperature=0, logprobs=True, top_logprobs=3
    )
    assert got.choices[0].message.content == ""
    assert got.choices[0].finish_reason == "stop"
    assert [said.token for said in got.choices[0].logprobs.content] == ["A"] * 3
    assert [len(said.top_logprobs) for said in got.choices[0].logprobs.content] == [3] * 3
    assert got.choices[0].logprobs.content[0].bytes == [65]


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("key", [None, "use-0123456789abcdeF", "Bearer", "é" * 20])
def test_every_route_asks_for_a_key(server: Running, method: str, path: str, key: str | None):
    headers = {} if key is None else {"Authorization": f"Bearer {key}".encode()}
    got = httpx.request(method, server.url + path, headers=headers)
    assert got.status_code == 401
    assert method == "HEAD" or got.json()["error"]["code"] == "invalid_api_key"
    assert got.headers["www-authenticate"].startswith("Bearer ")  # a browser asks for nothing of itself


@pytest.mark.parametrize("key", [None, "use-0123456789abcdeF", USE])
def test_the_page_at_the_root_is_the_one_thing_that_is_anyones(server: Running, key: str | None):
    got = server.call("GET", "/?model=A", key or "")
    assert (got.status_code, got.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert got.text == server.call("GET", "/", ADMINISTER).text  # and it says the same to all
    assert "tiny/llama" not in got.text


def test_a_role_opens_what_is_its(server: Running):
    assert server.call("GET", "/health", USE).json() == {"status": "ok"}
    assert server.call("GET", "/ready", USE).json() == {"status": "ready"}
    assert server.call("GET", "/metrics", USE).status_code == 403
    metrics = server.call("GET", "/metrics", ADMINISTER)
    assert metrics.status_code == 200
    assert "seektune_time_to_first_token_seconds" in metrics.text
    changes = [("POST", ""), ("POST", "/alias"), ("DELETE", "/A"), ("DELETE", "/alias/A")]
    for method, place in changes:
        denied = server.call(method, f"/v1/adapters{place}", USE, json={"name": "A", "alias": "x"})
        assert (denied.status_code, denied.json()["error"]["code"]) == (403, "insufficient_role")
    listed, told = (server.call("GET", "/v1/adapters", key).json()["data"] for key in (USE, ADMINISTER))
    assert [one["name"] for one in listed] == ["A", "B"]
    assert (any("place" in one for one in listed), all("place" in one for one in told)) == (False, True)
    basic = httpx.get(f"{server.url}/health", auth=("anyone", USE))  # what browsers send without being asked
    assert basic.status_code == 401


def test_a_path_without_v1_is_told_what_it_lacks(server: Running):
    got = server.call("POST", "/chat/completions", USE, json={})
    assert (got.status_code, got.json()["error"]["message"]) == (
        404, "POST '/chat/completions': Not Found; did you mean /v1/chat/completions?",
    )  # fmt: skip


def test_what_is_not_there_is_said_in_the_shape_of_errors(server: Running):
    missing = server.call("GET", "/v1/nowhere", USE)
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "invalid_request_error"
    assert "/v1/nowhere" in missing.json()["error"]["message"]
    wrong = server.call("GET", "/v1/completions", USE)
    assert wrong.status_code == 405
    assert "error" in wrong.json()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"temperature": -1}, "temperature"), ({"temperature": "hot"}, "temperature"), ({"n": 0}, "n"),
        ({"n": 17}, "n"), ({"top_p": 0}, "top_p"), ({"seed": 2**64}, "seed"), ({"seed": True}, "seed"),
        ({"stop": [""]}, "stop"), ({"stop": ["x"] * 17}, "stop"), ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1.5}, "max_tokens"), ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"tools": [{"type": "function"}]}, "tools"), ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"), ({"topp": 1}, "topp"),
        ({"top_logprobs": 3}, "top_logprobs"), ({"stream_options": {"usage": True}}, "stream_options.usage"),
        ({"messages": []}, "messages"), ({"messages": "Hello"}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x", "name": "y"}]}, "messages.0.name"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"), ({"messages": [3]}, "messages.0"),
        ({"model": None}, "model"), ({"model": 3}, "model"),
        ({"messages": [{"role": "user", "content": "x" * 5000}]}, "messages"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(server: Running, change: dict, field: str):
    body = {"model": "A", "messages": HELLO} | change
    got = server.call("POST", "/v1/chat/completions", USE, json=body)
    assert got.status_code == 400, got.text
    error = got.json()["error"]
    assert error["param"].startswith(field), error
    assert field.split(".")[-1].rstrip("0123456789") in error["message"]


def test_fields_that_ask_for_nothing_are_no_errors(server: Running):
    body = {
        "model": "A", "user": "me", "tools": [], "tool_choice": "none",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": None}],
        "max_tokens": None, "max_completion_tokens": 3, "temperature": 0,
        "response_format": {"type": "text"}, "logit_bias": None, "store": False, "stop": None, "metadata": {},
    }  # fmt: skip
    got = server.call("POST", "/v1/chat/completions", USE, json=body)
    assert got.status_code == 200, got.text
    assert got.json()["choices"][0]["message"]["content"] == "AAA"


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({"Content-Type": "application/json"}, b"", 400),
        ({"Content-Type": "application/json"}, b"[]", 400),
        ({"Content-Type": "application/json"}, b"x" * (1 << 20 | 1), 413),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, b"\x1f\x8b", 400),
    ],
)
def test_a_body_that_is_none_is_refused(server: Running, headers: dict, content: bytes, status: int):
    got = server.call("POST", "/v1/completions", USE, headers=headers, content=content)
    assert got.status_code == status
    assert got.json()["error"]["message"]


def test_pages_of_elsewhere_may_call_only_where_they_are_listed(server: Running):
    asked = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    shut = server.call("OPTIONS", "/v1/models", USE, headers=asked)
    assert shut.status_code == 405
    assert "access-control-allow-origin" not in shut.headers
    with running(load_model("tiny/llama"), KEYS, cors_origins=["https://page.example"]) as at:
        preflight = at.call("OPTIONS", "/v1/models", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://page.example"
        browsers = {"Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang"}
        assert at.call("OPTIONS", "/v1/models", headers=asked | browsers).status_code == 200
        assert "access-control-allow-credentials" not in preflight.headers
        other = at.call("OPTIONS", "/v1/models", headers=asked | {"Origin": "https://other.example"})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers
        assert at.call("GET", "/v1/models").status_code == 401


def test_without_keys_only_local_names_are_answered():
    with running(load_model("tiny/llama")) as at:
        assert at.call("GET", "/v1/models").status_code == 200
        assert at.call("GET", "/v1/models", headers={"Host": "localhost:80"}).status_code == 200
        assert at.call("GET", "/").status_code == 200
        for path in ("/v1/models", "/"):
            rebound = at.call("GET", path, headers={"Host": "evil.example"})
            assert rebound.status_code == 403
            assert rebound.json()["error"]["code"] == "wrong_host"


def test_any_loopback_address_it_listens_on_is_local():
    with running(load_model("tiny/llama"), host="127.0.0.2") as at:
        host = {"Host": "127.0.0.2:80"}
        url = at.url.replace("127.0.0.1", "127.0.0.2")
        assert httpx.get(f"{url}/v1/models", headers=host, timeout=60).status_code == 200
        assert httpx.get(f"{url}/v1/models", headers={"Host": "127.0.0.3"}, timeout=60).status_code == 403


def test_keys_are_in_no_log_and_no_answer(server: Running, caplog: pytest.LogCaptureFixture):
    wrong = "administer-wrong-0123456789"
    with caplog.at_level(logging.DEBUG):
        told = [server.call("GET", "/v1/models", key).text for key in (USE, ADMINISTER, wrong)]
    said = caplog.text + json.dumps(told)
    assert not [key for key in (USE, ADMINISTER, wrong) if key in said]
    assert not [key for key in (USE, ADMINISTER) if key in repr(KEYS)]


def test_more_answers_than_there_are_places_are_turned_away(server: Running):
    with running(load_model("tiny/llama"), max_concurrent_requests=2) as at:
        client = at.openai()
        first = client.chat.completions.create(
            model="tiny/llama", messages=HELLO, n=2, max_tokens=2000, stream=True,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        next(iter(first))
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="tiny/llama", messages=HELLO, max_tokens=1)
        assert refused.value.response.headers["retry-after"] == "1"
        first.close()
        patient = at.openai(max_retries=10)
        assert patient.chat.completions.create(model="tiny/llama", messages=HELLO, max_tokens=1).choices


def test_adapters_are_loaded_aliased_swapped_and_unloaded(signed: Mapping[str, Path], tmp_path: Path):
    root = tmp_path / "root"
    shutil.copytree(signed["A"], root / "letter" / "1")

    def said(model: str) -> str:
        body = {"model": model, "prompt": "x", "max_tokens": 4, "temperature": 0}
        got = at.call("POST", "/v1/completions", json=body).json()
        return got["choices"][0]["text"] if "choices" in got else got["error"]["code"]

    def change(method: str, place: str = "", **body: str) -> httpx.Response:
        return at.call(method, f"/v1/adapters{place}", json=body)

    with running(load_model("tiny/llama"), adapter_root=root) as at:
        assert said("letter") == "model_not_found"
        first = change("POST", name="letter").json()
        assert (first["name"], first["place"], said("letter")) == ("letter", "letter/1", "AAAA")
        assert [one["place"] for one in at.call("GET", "/v1/adapters").json()["data"]] == ["letter/1"]
        assert change("POST", "/alias", alias="best", name="letter").json()["key"] == first["key"]
        shutil.copytree(signed["B"], root / "letter" / "2")
        second = change("POST", name="letter").json()
        assert [said(name) for name in ("letter", "best", first["key"], second["key"])] == [
            "BBBB", "AAAA", "AAAA", "BBBB",
        ]  # fmt: skip
        change("POST", "/alias", alias="best", name="letter")
        assert (said("best"), said(first["key"])) == ("BBBB", "model_not_found")
        refused = change("DELETE", "/letter")
        assert (refused.status_code, "best" in refused.json()["error"]["message"]) == (400, True)
        assert change("DELETE", "/alias/best").status_code == 200
        assert change("DELETE", "/letter").status_code == 200
        assert said("letter") == "model_not_found"
        missing = [change("DELETE", "/letter"), change("DELETE", "/alias/best"), change("POST", name="no")]
        missing += [
            change("POST", name="letter", version="9"),
            change("POST", "/alias", alias="z", name="no"),
        ]
        assert [answer.status_code for answer in missing] == [404] * 5
        assert change("POST", name="letter", version="1").json()["key"] == first["key"]
    with running(load_model("tiny/llama"), adapter_root=root) as at:  # what was served last is again
        assert said("letter") == "AAAA"


def test_a_watched_root_serves_what_is_put_there(signed: Mapping[str, Path], tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    with running(load_model("tiny/llama"), adapter_root=root, adapter_poll=0.05) as at:
        assert [model.id for model in at.openai().models.list()] == ["tiny/llama"]
        shutil.copytree(signed["A"], root / "new")
        ends = time.monotonic() + 60
        while "new" not in at.service.backend.registry.published.names and time.monotonic() < ends:
            time.sleep(0.05)
        got = at.openai().completions.create(model="new", prompt="x", max_tokens=3, temperature=0)
        assert got.choices[0].text == "AAA"


def test_the_operators_troubles_are_not_the_callers(signed: Mapping[str, Path], tmp_path: Path):
    root = tmp_path / "root"
    for letter in "AB":
        shutil.copytree(signed[letter], root / letter)
    with running(load_model("tiny/llama"), adapter_root=root, max_loras=1) as at:
        first = at.call("POST", "/v1/adapters", json={"name": "A"}).json()
        assert at.call("POST", "/v1/adapters/alias", json={"alias": "x", "name": "A"}).status_code == 200
        full = at.call("POST", "/v1/adapters", json={"name": "B"})
        assert (full.status_code, full.headers["retry-after"]) == (503, "1")
        assert "raise serving.max_loras" in full.json()["error"]["message"]
        state = root / STATE
        state.unlink()
        state.mkdir()
        unsaved = at.call("POST", "/v1/adapters/alias", json={"alias": "y", "name": first["key"]})
        assert (unsaved.status_code, unsaved.json()["error"]["type"]) == (500, "server_error")
        assert "nothing is changed" in unsaved.json()["error"]["message"]
    with pytest.raises(AdapterError, match="cannot"):
        open_service(load_model("tiny/llama"), serve_config({"adapter_root": root}), KEYS)


def test_a_long_body_is_read_beside_other_calls(server: Running):
    body = {"model": "tiny/llama", "prompt": "x", "max_tokens": 1, "metadata": {"x": "y" * 200_000}}
    assert server.call("POST", "/v1/completions", USE, json=body).status_code == 200
    wrong = server.call("POST", "/v1/completions", USE, json=body | {"temprature": 1})
    assert wrong.json()["error"]["param"] == "temprature"
