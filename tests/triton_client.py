"""Requests over one gRPC stream, all at once: JSON on standard input, answers as JSON on standard output.

Run by the Python of .venv-triton: arguments are the address and the model; each request is {"parameters",
"inputs"}, each answer the list of its responses, an error among them as {"error": reason}.
"""

from __future__ import annotations

import json
import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as grpc


def tensor(name: str, text: str) -> grpc.InferInput:
    value = grpc.InferInput(name, [1], "BYTES")
    value.set_data_from_numpy(np.array([text.encode()], dtype=object))
    return value


def plain(result: grpc.InferResult) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for output in result.get_response().outputs:
        values = result.as_numpy(output.name)
        found[output.name] = values[0].decode() if output.datatype == "BYTES" else values.tolist()
    return found


def main(address: str, model: str) -> None:
    requests = json.load(sys.stdin)
    arrived: queue.Queue[tuple[grpc.InferResult | None, Exception | None]] = queue.Queue()
    answers: list[list[dict[str, Any]]] = [[] for _ in requests]
    with grpc.InferenceServerClient(address) as client:
        client.start_stream(callback=lambda result, error: arrived.put((result, error)))
        for index, request in enumerate(requests):
            inputs = [tensor(name, text) for name, text in request.get("inputs", {}).items()]
            client.async_stream_infer(
                model, inputs, request_id=str(index), parameters=request["parameters"],
                enable_empty_final_response=True,
            )  # fmt: skip
        left = len(requests)
        while left:
            result, error = arrived.get(timeout=120)
            if error is not None:  # it says not of which request: then there is one
                assert len(requests) == 1
                answers[0].append({"error": error.message()})
                break
            response = result.get_response()
            answers[int(response.id)].append(plain(result))
            left -= response.parameters["triton_final_response"].bool_param
    print(json.dumps(answers))


main(*sys.argv[1:])
