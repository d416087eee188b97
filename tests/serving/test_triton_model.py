"""The model as Triton's stub drives it, with a stand-in for the stub's own module."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import triton_stub
from triton_stub import Request

from seektune.errors import AdapterError, ConfigError, ModelError
from seektune.generation.generate import generate
from seektune.models.load import load_model
from seektune.serving import triton_model
from seektune.serving.triton_model import TritonPythonModel

FOUR = {"max_tokens": 4, "temperature": 0.0, "ignore_eos": True}
CPU = [{"kind": "KIND_CPU", "count": 1}]


@contextmanager
def started(
    folder: Path, groups: list[dict[str, Any]] = CPU, **parameters: str
) -> Iterator[Callable[..., list[dict[str, Any]]]]:
    """tiny/llama with the adapters in `folder`; gives a function: parameters and inputs → all responses."""
    given = {"base_model": "tiny/llama", "serving.adapter_root": str(folder)} | {
        key.replace("__", "."): value for key, value in parameters.items()
    }
    config = {
        "instance_group": groups,
        "parameters": {key: {"string_value": value} for key, value in given.items()},
    }
    model = TritonPythonModel()
    model.initialize(
        {
            "model_config": json.dumps(config),
            "model_repository": str(folder.parent / "models" / "llama"),
            "model_instance_kind": "CPU",
            "model_instance_device_id": "0",
        }
    )

    def ask(parameters: Mapping[str, Any], **inputs: str) -> list[dict[str, Any]]:
        request = Request(parameters, **inputs)
        model.execute([request])
        return request.answer()

    ask.model = model  # type: ignore[attr-defined]
    try:
        yield ask
    finally:
        model.finalize()


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton_stub)


@pytest.fixture
def folder(tmp_path: Path, signed: Mapping[str, Path]) -> Path:
    for letter, adapter in signed.items():
        shutil.copytree(adapter, tmp_path / "adapters" / letter / "1")
    return tmp_path / "adapters"


def test_base_and_adapters_answer_as_the_engine_does(folder: Path):
    want = generate(load_model("tiny/llama"), "Hello", max_new_tokens=4)
    with started(folder, adapters="A, B") as ask:
        [whole] = ask(FOUR, text_input="Hello")
        assert (whole["text_output"], whole["model"]) == (want.text, "tiny/llama")
        assert tuple(whole["token_ids"]) == want.tokens
        assert json.loads(whole["usage"])["completion_tokens"] == 4
        for letter in "AB":
            [whole] = ask(FOUR | {"adapter": letter}, text_input="Hello")
            assert (whole["text_output"], whole["finish_reason"]) == (letter * 4, "length")
            assert whole["model"].startswith(f"{letter}@")


def test_a_stream_s_pieces_join_to_the_answer(folder: Path):
    turns = json.dumps([{"role": "user", "content": "Hello"}])
    with started(folder, adapters="A") as ask:
        pieces = ask(FOUR | {"adapter": "A", "stream": True}, messages=turns)
    assert len(pieces) > 1
    assert "".join(piece["text_output"] for piece in pieces) == "AAAA"
    assert [piece.get("finish_reason") for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]


def test_requests_under_way_are_computed_together(folder: Path):
    long = {"max_tokens": 3000, "temperature": 0.0, "ignore_eos": True, "stream": True}
    with started(folder, adapters="A, B") as ask:

        def running() -> int:
            return int(json.loads(ask({"control": "list"})[0]["control_output"])["engine"]["running"])

        requests = [Request(long | {"adapter": "AB"[i % 2]}, text_input="Hello") for i in range(4)]
        ask.model.execute(requests)
        assert soon(lambda: running() == 4)
        for request in requests:
            request.sender.cancelled = True
        assert {request.answer()[-1]["code"] for request in requests} == {"CANCELLED"}
        assert soon(lambda: running() == 0)


def test_adapters_are_loaded_aliased_and_unloaded_by_requests(folder: Path):
    with started(folder, administer="true") as ask:

        def state(**parameters: str) -> dict[str, Any]:
            return json.loads(ask(parameters)[0]["control_output"])

        assert state(control="list")["names"] == {}
        key = state(control="load", adapter="A", version="1")["names"]["A"]
        assert state(control="alias", alias="prod", adapter="A")["aliases"] == {"prod": key}
        assert ask(FOUR | {"adapter": "prod"}, text_input="Hello")[0]["text_output"] == "AAAA"
        assert ask({"control": "unload", "adapter": "A"})[0]["error"].startswith("A has aliases")
        state(control="unalias", alias="prod")
        assert state(control="unload", adapter="A")["reasons"] == {"A": "it was unloaded"}
        [gone] = ask({"adapter": "A"}, text_input="Hello")
    assert gone["code"] == "NOT_FOUND"
    assert "it was unloaded" in gone["error"]


def test_requests_change_nothing_unless_config_pbtxt_allows_it(folder: Path):
    with started(folder) as ask:
        [refused] = ask({"control": "load", "adapter": "A"})
        assert refused["code"] == "UNSUPPORTED"
        assert "administer" in refused["error"]
        assert json.loads(ask({"control": "list"})[0]["control_output"])["adapters"] == []


def test_a_folder_that_is_put_there_is_served_and_one_that_goes_is_not(folder: Path):
    with started(folder, serving__adapter_poll="0.02") as ask:
        assert soon(lambda: "error" not in ask(FOUR | {"adapter": "B"}, text_input="x")[0])
        shutil.rmtree(folder / "B")
        assert soon(lambda: "error" in ask(FOUR | {"adapter": "B"}, text_input="x")[0])


def test_what_requests_loaded_comes_back_after_a_restart(folder: Path):
    with started(folder, administer="true") as ask:
        ask({"control": "load", "adapter": "B"})
    with started(folder) as ask:
        assert ask(FOUR | {"adapter": "B"}, text_input="x")[0]["text_output"] == "BBBB"


def test_bad_requests_are_answered_with_a_reason_and_the_next_one_works(folder: Path, caplog):
    with started(folder, serving__max_concurrent_requests="1") as ask:
        wrong = [
            (Request({}, text_input=b"\xff"), "text_input is not UTF-8: byte 0", "INVALID_ARG"),
            (Request({}, text_input=["a", "b"]), "text_input has 2 texts", "INVALID_ARG"),
            (Request({"adapter": "C"}, text_input="x"), "'C' is not served", "NOT_FOUND"),
            (Request({"temperature": -1}, text_input="x"), "temperature is -1", "INVALID_ARG"),
            (Request({"max_tokens": 4}, text_input="x" * 10**5), "text_input has 100,0", "INVALID_ARG"),
        ]
        for request, reason, code in wrong:
            ask.model.execute([request])
            [answer] = request.answer()
            assert answer["error"].startswith(reason)
            assert answer["code"] == code
        holding = Request({"max_tokens": 3000, "ignore_eos": True, "stream": True}, text_input="x")
        ask.model.execute([holding])
        holding.sender.responses.get(timeout=60)
        assert ask(FOUR, text_input="x")[0]["code"] == "UNAVAILABLE"
        holding.sender.cancelled = True
        holding.answer()
        assert ask(FOUR, text_input="x")[0]["finish_reason"] == "length"
        broken = Request({}, text_input="x")
        broken.parameters = lambda: "{"
        ask.model.execute([broken])
        [answer] = broken.answer()
        assert (answer["code"], answer["error"]) == (
            "INTERNAL",
            "the model failed (JSONDecodeError): see the server's log",
        )
    assert "a request failed" in caplog.text


def test_an_answer_that_takes_too_long_says_so(folder: Path):
    with started(folder, serving__request_timeout="0.3") as ask:
        [late] = ask({"max_tokens": 3900, "ignore_eos": True}, text_input="x")
    assert late["code"] == "UNAVAILABLE"
    assert "request_timeout" in late["error"]


def test_a_root_that_is_relative_is_seen_from_the_model_s_folder(folder: Path):
    with started(folder, adapters="A", **{"serving.adapter_root": "../../adapters"}) as ask:
        assert ask(FOUR | {"adapter": "A"}, text_input="x")[0]["text_output"] == "AAAA"


@pytest.mark.parametrize(
    ("groups", "parameters", "error", "reason"),
    [
        ([{"kind": "KIND_CPU", "count": 2}], {}, ConfigError, "asks for 2 instances"),
        ([{"kind": "KIND_GPU", "count": 1, "gpus": [0, 1]}], {}, ConfigError, "of several GPUs name one"),
        (CPU, {"adapters": "C"}, AdapterError, "C"),
        (CPU, {"adaptors": "A"}, ConfigError, "did you mean adapters"),
    ],
)
def test_what_cannot_work_fails_the_load_with_its_reason(
    folder: Path,
    groups: list[dict[str, Any]],
    parameters: dict[str, str],
    error: type[Exception],
    reason: str,
):
    with pytest.raises(error, match=reason), started(folder, groups, **parameters):
        pytest.fail("it must not start")


def test_a_gpu_instance_takes_the_gpu_that_triton_gives_it():
    given = {"model_instance_kind": "GPU", "model_instance_device_id": "1"}
    assert triton_model._device(given) == "cuda:1"


def test_outside_of_triton_the_model_says_what_it_needs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", None)
    with pytest.raises(ModelError, match="start tritonserver"):
        TritonPythonModel().initialize({})


def soon(what: Callable[[], bool]) -> bool:
    """Whether `what` comes to hold within a minute."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        if what():
            return True
        time.sleep(0.02)
    return False
