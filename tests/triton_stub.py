"""A stand-in for the module that exists only within Triton's stub: what our model uses of it, no more."""

from __future__ import annotations

import json
import queue
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1


class TritonError:
    """A reason and one of Triton's codes."""

    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int) -> None:
        self.message, self.code = message, code


class Tensor:
    """A name and an array."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        self.name, self._array = name, array

    def as_numpy(self) -> np.ndarray:
        return self._array


@dataclass
class InferenceResponse:
    """Tensors or an error."""

    output_tensors: list[Tensor] = field(default_factory=list)
    error: TritonError | None = None


class Sender:
    """What was sent for a request, in order; `cancelled` is set by a caller that leaves."""

    def __init__(self) -> None:
        self.responses: queue.Queue[tuple[InferenceResponse, int]] = queue.Queue()
        self.cancelled = False

    def is_cancelled(self) -> bool:
        return self.cancelled

    def send(self, response: InferenceResponse, flags: int = 0) -> None:
        self.responses.put((response, flags))


class Request:
    """Texts as inputs, and parameters."""

    def __init__(self, parameters: Mapping[str, Any], **inputs: str | bytes | list[str]) -> None:
        self._parameters, self.sender = parameters, Sender()
        self.tensors = {name: Tensor(name, _bytes(value)) for name, value in inputs.items()}

    def parameters(self) -> str:
        return json.dumps(self._parameters)

    def get_response_sender(self) -> Sender:
        return self.sender

    def answer(self) -> list[dict[str, Any]]:
        """All responses up to the last; a failure is {"error": reason, "code": its name}."""
        found = []
        while True:
            response, flags = self.sender.responses.get(timeout=60)
            found.append(_plain(response))
            if flags & TRITONSERVER_RESPONSE_COMPLETE_FINAL:
                assert self.sender.responses.empty()
                return found


def get_input_tensor_by_name(request: Request, name: str) -> Tensor | None:
    return request.tensors.get(name)


def _bytes(value: str | bytes | list[str]) -> np.ndarray:
    values = value if isinstance(value, list) else [value]
    return np.array([v.encode() if isinstance(v, str) else v for v in values], dtype=np.object_)


def _plain(response: InferenceResponse) -> dict[str, Any]:
    if response.error is not None:
        names = {code: name for name, code in vars(TritonError).items() if name.isupper()}
        return {"error": response.error.message, "code": names[response.error.code]}
    found: dict[str, Any] = {}
    for tensor in response.output_tensors:
        values = tensor.as_numpy()
        found[tensor.name] = values.tolist() if values.dtype == np.int32 else values[0].decode()
    return found
