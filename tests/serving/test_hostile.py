"""Hostile calls by the thousand: each is refused with a reason, nothing loads, no file outside is read."""

from __future__ import annotations

import json
import logging
import os
import pickle
import random
import shutil
import socket
import struct
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file
from servers import ADMINISTER, KEYS, USE, Running, running

from seektune.adapters.attach import attach
from seektune.adapters.folder import COMPACT, CONFIG, MANIFEST, WEIGHTS
from seektune.adapters.store import save_adapter
from seektune.config.adapter import AdapterSpec
from seektune.models.load import load_model

CODE = [Path(__file__).parents[2], *map(Path, (sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib")))]
OPENED: list[str] = []  # by threads of the server, while `WATCHING` is set
WATCHING = threading.Event()


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in ("open", "os.listdir", "os.scandir") or not WATCHING.is_set():
        return
    if threading.current_thread() is not threading.main_thread() and isinstance(
        arguments[0], str | bytes | Path
    ):
        OPENED.append(os.path.realpath(os.fsdecode(arguments[0])))


sys.addaudithook(watch)  # for the life of the process, and silent unless a test watches


@pytest.fixture(scope="module")
def hostile_root(tmp_path_factory: pytest.TempPathFactory, signed: Mapping[str, Path]) -> Path:
    """A root of adapters none of which may load; good ones lie outside, where links lead."""
    top = tmp_path_factory.mktemp("hostile")
    root, outside = top / "root", top / "root-outside"  # a prefix without its separator
    root.mkdir()
    good = Path(shutil.copytree(signed["A"], outside / "good"))

    def folder(name: str) -> Path:
        return Path(shutil.copytree(good, root / name))

    (root / "link").symlink_to(good)
    (root / "parent").symlink_to(outside)
    (root / "ring").symlink_to(root / "ring")
    for name, file in (("linked-weights", WEIGHTS), ("linked-config", CONFIG), ("linked-manifest", MANIFEST)):
        (folder(name) / file).unlink()
        (root / name / file).symlink_to(good / file)
    tensors = load_file(good / WEIGHTS)
    first = next(iter(tensors))
    foreign(folder("nan"), {**tensors, first: torch.full_like(tensors[first], float("nan"))})
    foreign(folder("infinite"), {**tensors, first: torch.full_like(tensors[first], float("inf"))})
    foreign(folder("missing"), {key: value for key, value in tensors.items() if key != first})
    foreign(folder("unknown"), {**tensors, "base_model.model.lm_head.lora_A.weight": tensors[first].clone()})
    foreign(folder("shape"), {**tensors, first: tensors[first][:, :-1].contiguous()})
    wide = attach(load_model("tiny/llama"), AdapterSpec(r=60, target_modules=["q_proj"]))
    save_adapter(wide, root / "giant-rank")
    other = attach(load_model("tiny/qwen2"), AdapterSpec(r=2, target_modules=["q_proj"]))
    save_adapter(other, root / "wrong-base")
    for name in (WEIGHTS, COMPACT):
        (folder(f"pickle-as-{name}") / name).write_bytes(pickle.dumps({"a": 1}))
    pickled = folder("pickle")
    (pickled / WEIGHTS).rename(pickled / "adapter_model.bin")
    (folder("truncated") / WEIGHTS).write_bytes((good / WEIGHTS).read_bytes()[:-9])
    (folder("header") / WEIGHTS).write_bytes(struct.pack("<Q", 2**63) + b"{}")
    (folder("tampered") / WEIGHTS).write_bytes((good / WEIGHTS).read_bytes()[:-1] + b"\1")
    (folder("deep") / MANIFEST).write_text("[" * 100_000, encoding="utf-8")
    (folder("no-json") / CONFIG).write_bytes(b"\xff\xfe")
    (root / "empty").mkdir()
    (root / "file").write_text("x", encoding="utf-8")
    return root


def foreign(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """An adapter that PEFT might have written, of these tensors."""
    save_file(dict(tensors), folder / WEIGHTS)
    (folder / MANIFEST).unlink()


CHAT = {"model": "tiny/llama", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
TEXT = {"model": "tiny/llama", "prompt": "Hi", "max_tokens": 1}
ROUTES = [
    ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("GET", "/v1/models"), ("GET", "/health"),
    ("GET", "/ready"), ("GET", "/metrics"), ("GET", "/v1/adapters"), ("POST", "/v1/adapters"), ("PUT", "/"),
    ("POST", "/v1/adapters/alias"), ("DELETE", "/v1/adapters/nan"), ("GET", "/v1/models/tiny/llama"),
]  # fmt: skip
ESCAPES = [
    "..", "../root-outside/good", "../../etc", "..%2f..%2fetc", "/etc/passwd", "link/../../root-outside/good",
    "good\0", "~", "~root", "$HOME", "C:\\x", "\\\\host\\x", "file:///etc/passwd", "http://x/y", ".", "", " ",
    "a" * 5000, "ﬁle", "．．", "-", "--help", "nan@", "@", "nan/.", "./nan", "*", "[a-z]", "\n", "tiny/llama",
]  # fmt: skip
WRONG: dict[str, list[Any]] = {
    "model": [3, [], {}, True, "", "nan", "../x", "tiny/llama@", "x" * 10**5],
    "max_tokens": [0, -1, 1.5, "1", True, [], 2**70],
    "temperature": [-0.1, "1", [], {}, True, -(2**63)],
    "top_p": [0, 1.1, -1, "x"], "min_p": [-1, 2, []], "top_k": [-1, 0.5, "x"],
    "n": [0, -1, 17, 10**9, "2", 1.5],
    "presence_penalty": [3, -3, "0"], "frequency_penalty": [2.1, []],
    "repetition_penalty": [0, -1, "x", 1e300, 1e-40],
    "seed": [2**64, -(2**64), 1.5, "x"], "stop": [[""], 3, {}, ["a"] * 17, [[]], [None]],
    "stream": ["yes", 1, []],
    "stream_options": [3, {"include_usage": "x"}, {"x": 1}, []], "logit_bias": [{"1": 5}, [], "x"],
    "ignore_eos": ["x", 1], "__proto__": [{}], "tools": [[{}], "x"],
    "response_format": [{"type": "json_object"}],
    "best_of": [5], "\0": [1], "x" * 10_000: [1], "Model": ["x"],
}  # fmt: skip
WRONG_CHAT = WRONG | {
    "messages": [
        [], "x", {}, [3], [[]], [{}], [{"role": "user"}], [{"role": "root", "content": "x"}],
        [{"role": "user", "content": 3}], [{"role": "user", "content": [{"type": "image_url"}]}],
        [{"role": "user", "content": "x", "exec": "y"}], [{"role": "user", "content": "x" * 300_000}],
        [{"role": "user", "content": None}], [{"role": "tool", "content": "x"}],
    ],
    "top_logprobs": [21, -1, 3, "x"], "logprobs": ["x", 3, []], "max_completion_tokens": [0, "x", 7],
}  # fmt: skip
WRONG_TEXT = WRONG | {
    "prompt": [
        [], [[]], 3, {}, [3.5], ["x", 3], [-1], [10**9], [2**63], "x" * 300_000, [["x"]], ["x"] * 17, [True],
    ],
    "logprobs": [21, -1, "x", True], "echo": [True, 3], "suffix": ["x"],
}  # fmt: skip

Call = tuple[str, str, dict[str, Any]]


def of_json(content: bytes | str, path: str, key: str = USE, **headers: str) -> Call:
    body = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    sent = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"} | headers
    return "POST", path, {"content": body, "headers": sent}


def wrong_field(rng: random.Random) -> Call:
    path, body, wrong = rng.choice([(ROUTES[0][1], CHAT, WRONG_CHAT), (ROUTES[1][1], TEXT, WRONG_TEXT)])
    field = rng.choice(sorted(wrong))
    return of_json(json.dumps(body | {field: rng.choice(wrong[field])}), path)


def broken_json(rng: random.Random) -> Call:
    path, body = rng.choice([(ROUTES[0][1], CHAT), (ROUTES[1][1], TEXT), ("/v1/adapters", {"name": "nan"})])
    text = json.dumps(body)
    depth = rng.choice([40, 5_000, 200_000])
    broken = [
        text[: rng.randrange(len(text))], text + "]", text[:-1] + ', "n": NaN}',
        text[:-1] + ', "n": -Infinity}', "[]", "null", '"x"',
        text[:-1] + f', "n": {"9" * rng.choice([25, 5000])}}}', text[:-1] + ', "top_p": 1e999}',
        text[:-1] + ', "model": "tiny/llama", "model": "x"}', text[:-1] + ', "user": "\\ud800"}',
        "[" * depth + "]" * depth, '{"a":' * depth + "1" + "}" * depth, text[:-1] + ', "n": [' + "[" * depth,
        "\ufeff" + text, "", "0", text.replace('"', "'"),
    ]  # fmt: skip
    raw = bytes(rng.randrange(128, 256) for _ in range(rng.randrange(1, 200)))
    return of_json(rng.choice([*broken, b"\xff" + raw, raw + text.encode()]), path, ADMINISTER)


def wrong_kind(rng: random.Random) -> Call:
    kind = rng.choice(
        ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "x" * 500]
    )
    return of_json(json.dumps(CHAT), ROUTES[0][1], **{"Content-Type": kind})


def too_large(rng: random.Random) -> Call:
    return of_json(b" " * rng.choice([1 << 20 | 1, 3 << 20]), rng.choice(ROUTES[:2])[1])


def wrong_key(rng: random.Random) -> Call:
    method, path = rng.choice([*ROUTES, ("GET", "/" + "x" * rng.randrange(1, 500)), ("PUT", "/v1/adapters")])
    guess = rng.choice([
        "", "Bearer", f"Bearer {USE[:-1]}", f"Bearer {USE}x", f"Basic {USE}", f"Token {USE}", USE,
        "Basic ====",
        f"Bearer {''.join(rng.choices('abcdef0123456789', k=20))}", "Bearer " + "k" * 10_000, f"bearer,{USE}",
    ])  # fmt: skip
    headers = {"Authorization": guess} if guess else {}
    return method, path, {"headers": headers, "content": json.dumps(CHAT) if method == "POST" else b""}


def wrong_role(rng: random.Random) -> Call:
    method, path = rng.choice([*ROUTES[7:8], *ROUTES[9:11], ROUTES[5], ("DELETE", "/v1/adapters/alias/x")])
    return method, path, {"headers": {"Authorization": f"Bearer {USE}"}}


def no_route(rng: random.Random) -> Call:
    path = rng.choice([
        "/v1/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/static/../../x", "/v1/files/x", "/x//",
        "/v1/models/..%2f..%2fetc", "/.env", "/v1/adapters/nan/../../x", "/v1/chat/completions/",
        "/openapi.json", "/v1/models/%00",
    ])  # fmt: skip
    method = rng.choice(["GET", "PUT", "PATCH", "TRACE", "BREW"])
    return method, path, {"headers": {"Authorization": f"Bearer {ADMINISTER}"}}


def bad_adapter(rng: random.Random, names: list[str]) -> Call:
    name = rng.choice(names if rng.random() < 0.7 else ESCAPES)
    version = rng.choice([*ESCAPES, *names]) if rng.random() < 0.3 else None
    headers = {"Authorization": f"Bearer {ADMINISTER}"}
    if rng.random() < 0.1:
        return "DELETE", f"/v1/adapters/{quote(name, safe='')}", {"headers": headers}
    if rng.random() < 0.1:
        return of_json(
            json.dumps({"alias": rng.choice(ESCAPES), "name": name}), "/v1/adapters/alias", ADMINISTER
        )
    extra = rng.choice([{}, {}, {}, {"path": "/etc"}, {"name": [name]}, {"version": 3}])
    body = {"name": name} | ({} if version is None else {"version": version}) | extra
    return of_json(json.dumps(body), "/v1/adapters", ADMINISTER)


def calls(rng: random.Random, names: list[str]) -> Iterator[Call]:
    adapter = partial(bad_adapter, names=names)
    kinds: list[Callable[[random.Random], Call]] = [
        wrong_field, wrong_field, wrong_field, broken_json, broken_json, wrong_kind, too_large,
        wrong_key, wrong_key, wrong_role, no_route, adapter, adapter,
    ]  # fmt: skip
    while True:
        yield rng.choice(kinds)(rng)


LINE, POST = b"GET /ready HTTP/1.1\r\nHost: x\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: "
RAW = [
    LINE + b"X: y\r\n" * 20_000 + b"\r\n", LINE + b"X: " + b"y" * 10**6 + b"\r\n\r\n",
    b"GET /" + b"a" * 10**5 + b" HTTP/1.1\r\n\r\n", b"\0\1\2\3\r\n\r\n", b"GET\r\n\r\n",
    b"GET /ready HTTP/9.9\r\n\r\n",
    POST + b"-1\r\n\r\n", LINE + b"Host: y\r\n\r\n", POST + b"1\r\nContent-Length: 2\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\r\n\r\n", POST + b"9" * 23 + b"\r\nConnection: close\r\n\r\n",
    LINE + b"A\0: b\r\n\r\n", LINE + b" folded: b\r\n\r\n",
]  # fmt: skip


def said_to(at: Running, request: bytes) -> bytes:
    host, port = at.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(65536)
        except TimeoutError:  # left hanging
            raise
        except OSError:  # it was cut off while it was still talking
            return b""


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_hostile_calls_are_refused_with_a_reason(
    count: int, hostile_root: Path, caplog: pytest.LogCaptureFixture
):
    rng = random.Random(count)
    names = sorted(path.name for path in hostile_root.iterdir())
    limits = {"adapter_root": hostile_root, "max_lora_rank": 32}
    with (
        running(load_model("tiny/llama"), KEYS, **limits) as at,
        httpx.Client(base_url=at.url, timeout=120) as client,
    ):
        OPENED.clear()
        WATCHING.set()
        with caplog.at_level(logging.WARNING):
            for (method, path, options), _ in zip(calls(rng, names), range(count), strict=False):
                answer = client.request(method, path, **options)
                said = (
                    f"{method} {path[:200]} {str(options)[:600]} → {answer.status_code} {answer.text[:300]}"
                )
                assert 400 <= answer.status_code < 500, said
                assert len(answer.json()["error"]["message"]) > 10, said
        WATCHING.clear()
        assert not at.service.backend.registry.published.versions
        fine = client.post("/v1/completions", json=TEXT, headers={"Authorization": f"Bearer {USE}"})
        assert fine.status_code == 200
        assert at.service.backend.worker.stats.running == 0
    allowed = [hostile_root, *CODE]
    assert not [path for path in OPENED if not any(Path(path).is_relative_to(place) for place in allowed)]
    assert any(Path(path).is_relative_to(hostile_root) for path in OPENED)  # the watch does watch
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_what_is_no_http_is_answered_and_forgotten():
    with running(load_model("tiny/llama"), KEYS) as at:
        for request in RAW:
            answer = said_to(at, request)
            assert answer[9:12] in (b"400", b"401", b"431", b""), answer[:200]
            assert at.call("GET", "/ready", USE).status_code == 200
