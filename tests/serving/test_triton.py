"""The real Triton server, from a wheel in an environment of its own, on an exported repository."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from seektune.config.triton import triton_export
from seektune.export.triton import export_triton
from seektune.generation.generate import generate
from seektune.models.load import load_model

ROOT = Path(__file__).parents[2]
ENV = ROOT / ".venv-triton"
CLIENT = ROOT / "tests" / "triton_client.py"
KEY = {"key": "secret"}  # a header that Triton asks for before it changes models
FOUR = {"max_tokens": 4, "temperature": 0.0, "ignore_eos": True}
LONG = FOUR | {"max_tokens": 3000, "stream": True}
TURNS = json.dumps([{"role": "user", "content": "Hello"}])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ENV / ".installed").exists(), reason="`make triton-env` makes .venv-triton"),
]


@dataclass(frozen=True)
class Triton:
    """A server that answers."""

    process: subprocess.Popen[str]
    repository: Path
    http: str
    grpc: str

    def post(self, path: str, body: Mapping[str, Any], **options: Any) -> httpx.Response:
        return httpx.post(f"{self.http}/v2/{path}", json=body, timeout=120, **options)

    def ask(self, parameters: Mapping[str, Any], **inputs: str) -> dict[str, Any]:
        return dict(self.post("models/llama/generate", inputs | {"parameters": parameters}).json())

    def stream(self, parameters: Mapping[str, Any], **inputs: str) -> list[dict[str, Any]]:
        body = inputs | {"parameters": dict(parameters) | {"stream": True}}
        text = self.post("models/llama/generate_stream", body).text
        return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]

    def over_grpc(self, *requests: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
        command = [str(ENV / "bin" / "python"), str(CLIENT), self.grpc, "llama"]
        done = subprocess.run(
            command, input=json.dumps(requests), capture_output=True, text=True, timeout=180
        )
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout))

    def control(self, **parameters: str) -> dict[str, Any]:
        return dict(json.loads(self.ask(parameters)["control_output"]))

    def running(self) -> int:
        return int(self.control(control="list")["engine"]["running"])

    def stubs(self) -> set[str]:
        """Ids of the model processes."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return {child for task in tasks for child in (task / "children").read_text().split()}


@contextmanager
def serving(repository: Path, log: Path, *arguments: str) -> Iterator[Triton]:
    """serve.sh on free ports, ended in order."""
    ports = free_ports(3)
    names = ("HTTP_PORT", "GRPC_PORT", "METRICS_PORT")
    environment = os.environ | dict(zip(names, map(str, ports), strict=True))
    environment |= {"TRITON_ENV": str(ENV), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [str(repository / "serve.sh"), *arguments]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=environment, text=True)
    triton = Triton(process, repository, f"http://127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}")
    try:
        assert soon(lambda: process.poll() is not None or ready(triton), 300), log.read_text()
        assert process.poll() is None, log.read_text()
        yield triton
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def ready(triton: Triton) -> bool:
    try:
        return httpx.get(f"{triton.http}/v2/models/llama/ready", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def soon(what: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether `what` comes to hold in time."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        if what():
            return True
        time.sleep(0.1)
    return False


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory, signed: Mapping[str, Path]) -> Iterator[Triton]:
    """tiny/llama with the adapter A."""
    folder = tmp_path_factory.mktemp("triton")
    config = triton_export({"base_model": "tiny/llama"}, ["administer=true", "serving.adapter_poll=0.2"])
    export_triton(load_model("tiny/llama"), signed["A"], "A", config, folder / "repo")
    restricted = "--http-restricted-api=model-repository:key=secret"
    with serving(folder / "repo", folder / "log", restricted) as at:
        yield at


def test_answers_are_the_engine_s_by_every_way(triton: Triton) -> None:
    loaded = load_model("tiny/llama")
    for inputs, prompt in (
        ({"text_input": "Hello"}, "Hello"),
        ({"messages": TURNS}, json.loads(TURNS)),
    ):
        want = generate(loaded, prompt, max_new_tokens=16)
        greedy = {"max_tokens": 16, "temperature": 0.0}
        whole = triton.ask(greedy, **inputs)
        assert (tokens([whole]), whole["text_output"]) == (list(want.tokens), want.text)
        assert (whole["model"], whole["finish_reason"]) == ("tiny/llama", want.finish_reason)
        for pieces in (
            triton.stream(greedy, **inputs),
            triton.over_grpc({"inputs": inputs, "parameters": greedy | {"stream": True}})[0],
        ):
            assert tokens(pieces) == list(want.tokens)
            assert "".join(piece.get("text_output", "") for piece in pieces) == want.text
            assert len(pieces) > 1
    assert triton.ask(FOUR | {"adapter": "A"}, text_input="Hello")["text_output"] == "AAAA"


def test_requests_of_base_and_adapter_share_a_stream_and_a_batch(triton: Triton) -> None:
    requests = [
        {"inputs": {"text_input": f"Hello {i}"}, "parameters": FOUR | ({"adapter": "A"} if i % 2 else {})}
        for i in range(12)
    ]
    answers = triton.over_grpc(*requests)
    for request, [whole, *_] in zip(requests, answers, strict=True):
        again = triton.ask(request["parameters"], **request["inputs"])
        assert whole["token_ids"] == tokens([again])
    pieces = []  # a stream ends when its iterator is let go
    with ExitStack() as open_streams:
        for _ in range(5):
            body = {"text_input": "Hello", "parameters": LONG}
            url = f"{triton.http}/v2/models/llama/generate_stream"
            answer = open_streams.enter_context(httpx.stream("POST", url, json=body, timeout=60))
            pieces.append(answer.iter_raw())
            next(pieces[-1])
        assert soon(lambda: triton.running() == 5)
    assert soon(lambda: triton.running() == 0)  # who leaves frees the engine


def test_adapters_come_and_go_in_the_process_that_runs(triton: Triton, signed: Mapping[str, Path]) -> None:
    before, ended, failed = triton.stubs(), threading.Event(), []

    def call() -> None:
        while not ended.is_set():
            answer = triton.ask(FOUR | {"adapter": "A"}, text_input="Hello")
            if answer.get("text_output") != "AAAA":
                failed.append(answer)

    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    try:
        # By a request, used at once.
        root = triton.repository / "adapters"
        shutil.copytree(signed["B"], root / "B" / "1")
        key = triton.control(control="load", adapter="B")["names"]["B"]
        answer = triton.ask(FOUR | {"adapter": "B"}, text_input="Hello")
        assert (answer["text_output"], answer["model"]) == ("BBBB", key)
        assert triton.control(control="alias", alias="prod", adapter="B")["aliases"] == {"prod": key}
        assert triton.ask(FOUR | {"adapter": "prod"}, text_input="Hello")["text_output"] == "BBBB"
        triton.control(control="unalias", alias="prod")
        triton.control(control="unload", adapter="B")
        assert "'B' is not served: it was unloaded" in triton.ask({"adapter": "B"}, text_input="x")["error"]
        # By the folder alone.
        shutil.copytree(signed["B"], root / "C" / "1")
        assert soon(lambda: triton.ask(FOUR | {"adapter": "C"}, text_input="x").get("text_output") == "BBBB")
        shutil.rmtree(root / "C")
        assert soon(lambda: "error" in triton.ask({"adapter": "C"}, text_input="x"))
    finally:
        ended.set()
        for caller in callers:
            caller.join(60)
    assert failed == []
    assert triton.stubs() == before


@pytest.mark.parametrize(
    ("inputs", "parameters", "reason"),
    [
        ({"text_input": "x"}, {"adapter": "nobody"}, "'nobody' is not served"),
        ({"text_input": "x"}, {"temperature": -1}, "temperature is -1"),
        ({"text_input": "x"}, {"temprature": 1}, "temprature is unknown; did you mean temperature?"),
        ({"messages": "hello"}, {}, "messages: the body is not JSON"),
        ({"text_input": "x" * 5000}, {}, "text_input has 5,00"),
        ({}, {}, "give either text_input or messages"),
        ({}, {"control": "load", "adapter": "../A"}, "'../A' is no name"),
    ],
)
def test_what_is_wrong_is_a_triton_error_with_its_reason(
    triton: Triton, inputs: dict[str, str], parameters: dict[str, Any], reason: str
) -> None:
    answer = triton.post("models/llama/generate", inputs | {"parameters": parameters})
    assert answer.status_code == 400
    [[over_grpc]] = triton.over_grpc({"inputs": inputs, "parameters": parameters})
    assert answer.json()["error"] == over_grpc["error"]
    assert answer.json()["error"].startswith(reason)


def test_plain_inference_over_http_is_what_triton_does_not_have_here(triton: Triton) -> None:
    text = {"name": "text_input", "shape": [1], "datatype": "BYTES", "data": ["x"]}
    assert triton.post("models/llama/infer", {"inputs": [text]}).status_code == 501


def test_triton_s_own_load_takes_other_adapters_in_a_new_process_and_only_with_the_key(
    triton: Triton, signed: Mapping[str, Path]
) -> None:
    shutil.copytree(signed["B"], triton.repository / "adapters" / "D" / "1")
    before = triton.stubs()
    config = httpx.get(f"{triton.http}/v2/models/llama/config", timeout=60).json()
    config["parameters"]["adapters"] = {"string_value": "A, D"}
    body = {"parameters": {"config": json.dumps(config)}}
    refused = triton.post("repository/models/llama/load", body)
    assert refused.status_code == 403
    assert triton.stubs() == before
    assert triton.post("repository/models/llama/load", body, headers=KEY).status_code == 200
    assert triton.ask(FOUR | {"adapter": "D"}, text_input="x")["text_output"] == "BBBB"
    assert soon(lambda: len(triton.stubs()) == 1)
    after = triton.stubs()
    assert after.isdisjoint(before)
    assert triton.post("repository/models/llama/load", {}, headers=KEY).status_code == 200
    assert triton.stubs() == after  # nothing has changed


def test_what_the_exporter_writes_is_what_triton_parses(triton: Triton, tmp_path: Path) -> None:
    path = triton.repository / "models" / "llama" / "config.pbtxt"
    odd = tmp_path / "config.pbtxt"
    odd.write_text(path.read_text().replace('"tiny/llama"', json.dumps('/a "b" \\ é\n#', ensure_ascii=False)))
    script = (
        "import sys; from google.protobuf import json_format, text_format;"
        "from tritonclient.grpc.model_config_pb2 import ModelConfig;"
        "print(json_format.MessageToJson(text_format.Parse(open(sys.argv[1]).read(), ModelConfig())))"
    )
    done = subprocess.run(
        [str(ENV / "bin" / "python"), "-c", script, str(odd)], capture_output=True, text=True, check=True
    )
    config = json.loads(done.stdout)
    assert config["parameters"]["base_model"] == {"stringValue": '/a "b" \\ é\n#'}
    assert config["instanceGroup"] == [{"count": 1, "kind": "KIND_CPU"}]
    assert config["modelTransactionPolicy"] == {"decoupled": True}


def test_the_end_waits_for_answers_under_way(triton: Triton) -> None:
    body = {"text_input": "Hello", "parameters": FOUR | {"max_tokens": 400, "stream": True, "adapter": "A"}}
    url, last = f"{triton.http}/v2/models/llama/generate_stream", ""
    with httpx.stream("POST", url, json=body, timeout=60) as answer:
        for line in answer.iter_lines():
            if not last:
                triton.process.send_signal(signal.SIGINT)
            last = line or last
    assert json.loads(last.removeprefix("data: "))["finish_reason"] == "length"
    assert triton.process.wait(60) == 0


def tokens(responses: Sequence[Mapping[str, Any]]) -> list[int]:
    """All tokens; /generate shows a single one without its list."""
    found: list[int] = []
    for response in responses:
        ids = response.get("token_ids", [])
        found += ids if isinstance(ids, list) else [ids]
    return found
