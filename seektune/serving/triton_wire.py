"""What Triton hands over → what is asked, and outputs of the engine → what Triton sends; plain values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from seektune.errors import SeektuneError
from seektune.generation.request import Output
from seektune.serving.answers import usage
from seektune.serving.body import Body, read
from seektune.serving.protocol import ChatBody, TextBody
from seektune.serving.refusal import Refusal, refusal_of
from seektune.serving.strict_json import parse

Tensors = Mapping[str, str | Sequence[int]]
"""Outputs of one response by name: a text, or tokens."""

# What OpenAI's bodies hold and a request to Triton does not: there is one answer, and `adapter` says whose.
_ABSENT = ("model", "prompt", "messages", "n", "stream_options", "logprobs", "top_logprobs")
_CODES = {403: "UNSUPPORTED", 404: "NOT_FOUND", 429: "UNAVAILABLE", 499: "CANCELLED", 500: "INTERNAL"}


_NEEDED: Mapping[str, tuple[str, ...]] = {
    "list": (),
    "load": ("adapter",),
    "unload": ("adapter",),
    "alias": ("alias", "adapter"),
    "unalias": ("alias",),
}


class ControlBody(Body):
    """What a request about adapters has as parameters, and no inputs beside them."""

    control: Literal["list", "load", "unload", "alias", "unalias"]
    adapter: str | None = None
    version: str | None = None  # of the adapter to load
    alias: str | None = None


def asked(
    inputs: Mapping[str, str], parameters: Mapping[str, Any], base: str
) -> ChatBody | TextBody | ControlBody:
    """What a request asks for; without an `adapter` among its parameters the base, named `base`, answers.

    Raises Refusal naming the input or parameter that is missing, unknown or wrong.
    """
    if "control" in parameters:
        if inputs:
            raise Refusal(f"a control request has no {min(inputs)}: send one or the other", param="control")
        return _whole(read(ControlBody, dict(parameters)))
    if ("text_input" in inputs) == ("messages" in inputs):
        raise Refusal("give either text_input or messages", param="text_input")
    more = _json("sampling_parameters", inputs) if "sampling_parameters" in inputs else {}
    if not isinstance(more, dict):
        raise Refusal("sampling_parameters must be a JSON object", param="sampling_parameters")
    if both := sorted(more.keys() & parameters.keys()):
        raise Refusal(f"{both[0]} stands in sampling_parameters and among the parameters: give it once")
    settings = more | dict(parameters)
    if absent := [name for name in _ABSENT if name in settings]:
        raise Refusal(f"{absent[0]} is no parameter here", param=absent[0], code="unsupported_field")
    tree = {"model": settings.pop("adapter", base)} | settings
    if "messages" in inputs:
        return read(ChatBody, tree | {"messages": _json("messages", inputs)})
    return read(TextBody, tree | {"prompt": inputs["text_input"]})


def answered(output: Output, model: str) -> Tensors:
    """A response: what the answer gained, and how it ended in the last one."""
    gained: dict[str, str | Sequence[int]] = {
        "text_output": output.text,
        "token_ids": output.tokens,
        "model": model,
    }
    if output.finish_reason is not None:
        gained |= {"finish_reason": output.finish_reason, "usage": json.dumps(usage([output], 1))}
    return gained


def controlled(state: Mapping[str, Any]) -> Tensors:
    """The response to a control request."""
    return {"control_output": json.dumps(state, ensure_ascii=False)}


def code_of(error: SeektuneError) -> str:
    """The name of Triton's code for an error that a caller is told."""
    status = refusal_of(error).status
    return _CODES.get(status, "INVALID_ARG" if status < 500 else "UNAVAILABLE")


def _whole(body: ControlBody) -> ControlBody:
    needed = _NEEDED[body.control]
    for name in ("adapter", "version", "alias"):
        given = getattr(body, name) is not None
        if given != (name in needed) and not (name == "version" and body.control == "load"):
            raise Refusal(f"control: {body.control} {'takes no' if given else 'needs'} {name}", param=name)
    return body


def _json(name: str, inputs: Mapping[str, str]) -> Any:
    try:
        return parse(inputs[name].encode())
    except Refusal as error:
        raise Refusal(f"{name}: {error}", param=name) from None
