"""Inputs and parameters of a request → what is asked; outputs of the engine → tensors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from seektune.config.triton import OUTPUTS
from seektune.errors import ConfigError
from seektune.generation.request import Output, Sampling
from seektune.serving.protocol import ChatBody, TextBody
from seektune.serving.refusal import Refusal
from seektune.serving.triton_wire import ControlBody, answered, asked, code_of, controlled

TURNS = json.dumps([{"role": "system", "content": "Be kind"}, {"role": "user", "content": "Hi"}])


def test_a_text_is_continued_by_the_base_unless_an_adapter_is_named():
    body = asked({"text_input": "Hi"}, {}, "base")
    assert isinstance(body, TextBody)
    assert (body.model, body.prompts, body.stream) == ("base", ["Hi"], False)
    assert asked({"text_input": "Hi"}, {"adapter": "a@12"}, "base").model == "a@12"


def test_messages_are_a_conversation():
    body = asked({"messages": TURNS}, {"stream": True}, "base")
    assert isinstance(body, ChatBody)
    assert [(turn.role, turn.content) for turn in body.conversation] == [
        ("system", "Be kind"),
        ("user", "Hi"),
    ]
    assert body.stream


def test_sampling_comes_from_parameters_and_from_json_beside_them():
    more = json.dumps({"stop": ["a", "b"], "temperature": 0.5})
    body = asked({"text_input": "x", "sampling_parameters": more}, {"max_tokens": 5, "seed": 3}, "base")
    assert isinstance(body, TextBody)
    assert body.asked() == Sampling(max_tokens=5, temperature=0.5, seed=3, stop=("a", "b"))


@pytest.mark.parametrize(
    ("inputs", "parameters", "reason"),
    [
        ({}, {}, "give either text_input or messages"),
        ({"text_input": "x", "messages": TURNS}, {}, "give either text_input or messages"),
        ({"messages": "hello"}, {}, "messages: the body is not JSON"),
        ({"messages": "{}"}, {}, "messages: "),
        ({"messages": '[{"role": "boss", "content": "x"}]'}, {}, "messages.0.role"),
        ({"text_input": "x"}, {"temprature": 1}, "temprature is unknown; did you mean temperature"),
        ({"text_input": "x"}, {"max_tokens": "5"}, "max_tokens: "),
        ({"text_input": "x"}, {"adapter": 5}, "model: "),
        ({"text_input": "x"}, {"n": 2}, "n is no parameter here"),
        ({"text_input": "x"}, {"model": "a"}, "model is no parameter here"),
        ({"text_input": "x", "sampling_parameters": "[1]"}, {}, "sampling_parameters must be a JSON object"),
        ({"text_input": "x", "sampling_parameters": '{"seed": NaN}'}, {}, "sampling_parameters: "),
        ({"text_input": "x", "sampling_parameters": '{"seed": 1}'}, {"seed": 1}, "seed stands in"),
        ({"text_input": "x"}, {"control": "list"}, "a control request has no text_input"),
        ({}, {"control": "drop"}, "control: "),
        ({}, {"control": "load"}, "control: load needs adapter"),
        ({}, {"control": "alias", "adapter": "a"}, "control: alias needs alias"),
        ({}, {"control": "unload", "adapter": "a", "version": "1"}, "control: unload takes no version"),
        ({}, {"control": "list", "adapter": "a"}, "control: list takes no adapter"),
        ({}, {"control": "load", "adapter": "a", "path": "/"}, "path is unknown"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(
    inputs: dict[str, str], parameters: dict[str, Any], reason: str
):
    with pytest.raises(Refusal, match=f"^{reason}") as refused:
        asked(inputs, parameters, "base")
    assert code_of(refused.value) == "INVALID_ARG"


def test_control_requests_name_what_they_change():
    body = asked({}, {"control": "load", "adapter": "a", "version": "2"}, "base")
    assert body == ControlBody(control="load", adapter="a", version="2")
    assert asked({}, {"control": "load", "adapter": "a"}, "base").version is None
    assert asked({}, {"control": "alias", "alias": "x", "adapter": "a"}, "base").alias == "x"


def test_a_response_holds_what_is_new_and_the_last_one_how_it_ended():
    going = answered(Output(id="1", tokens=(5, 6), text="ab"), "a@1")
    assert going == {"text_output": "ab", "token_ids": (5, 6), "model": "a@1"}
    ended = answered(Output(id="1", finish_reason="stop", prompt_tokens=3, completion_tokens=2), "a@1")
    assert ended["finish_reason"] == "stop"
    assert json.loads(str(ended["usage"]))["total_tokens"] == 5
    assert {*ended, *controlled({})} == set(OUTPUTS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refusal("x"), "INVALID_ARG"),
        (Refusal("x", 403), "UNSUPPORTED"),
        (Refusal("x", 404), "NOT_FOUND"),
        (Refusal("x", 429), "UNAVAILABLE"),
        (Refusal("x", 499), "CANCELLED"),
        (Refusal("x", 500), "INTERNAL"),
        (Refusal("x", 503), "UNAVAILABLE"),
        (Refusal("x", 504), "UNAVAILABLE"),
        (ConfigError("x"), "INVALID_ARG"),
    ],
)
def test_every_error_has_a_code_of_triton_s(error: Exception, code: str):
    assert code_of(error) == code
