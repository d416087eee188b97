"""A model of NVIDIA Triton's Python backend: its requests are answered by our engine, all in one process.

Triton calls `execute` on its own thread, which hands each request to a loop; from there responses go back
whenever the engine has something, so requests under way are computed together.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from seektune.config.serving import ServeConfig
from seektune.config.triton import INPUTS, TritonConfig, triton_config
from seektune.errors import ConfigError, ModelError, SeektuneError
from seektune.generation.request import Output
from seektune.models.load import load_model
from seektune.serving.backend import open_backend, settle
from seektune.serving.limits import Gate
from seektune.serving.outbox import Outbox, joined
from seektune.serving.protocol import ChatBody, TextBody
from seektune.serving.refusal import Refusal, timed_out
from seektune.serving.triton_wire import ControlBody, Tensors, answered, asked, code_of, controlled

_LOOK = 0.2  # seconds between two looks at whether a caller has left: each is a call to the server
_log = logging.getLogger(__name__)


class TritonPythonModel:
    """What model.py gives to Triton's stub, which calls it as its documentation says."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the base and the adapters that config.pbtxt names; what it raises fails Triton's load."""
        self._triton = _stub()
        model = json.loads(args["model_config"])
        _refuse_several(model["instance_group"])
        config = triton_config({key: value["string_value"] for key, value in model["parameters"].items()})
        self._config = _rooted(config, Path(args["model_repository"]))
        loaded = load_model(
            config.base_model, dtype=config.dtype, dequantize=config.dequantize, device=_device(args)
        )
        serving = self._config.serving
        self._backend = open_backend(loaded, ServeConfig(serving=serving, engine=config.engine))
        try:
            for name in config.adapters:
                self._backend.registry.load(name)
        except BaseException:
            self._backend.close()
            raise
        self._gate = Gate(serving.max_concurrent_requests)
        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop, self._ending = runner.get_loop(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, args=(runner,), name="answers", daemon=True)
        self._thread.start()
        settle()
        if serving.adapter_poll:
            self._hand_over(self._backend.watch(serving.adapter_poll))

    def execute(self, requests: Sequence[Any]) -> None:
        """Take requests; their responses follow from the loop."""
        for request in requests:
            responses = _Responses(self._triton, request.get_response_sender())
            try:
                inputs = _texts(self._triton, request)
                parameters = json.loads(request.parameters() or "{}")
            except Exception as error:
                responses.fail(error)
                continue
            self._hand_over(self._answer(inputs, parameters, responses))

    def finalize(self) -> None:
        """End; Triton has waited for the answers under way."""
        self._backend.close()
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(30)

    def _run(self, runner: asyncio.Runner) -> None:
        with runner:  # its end cancels what is left
            runner.run(self._ending.wait())

    def _hand_over(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _answer(
        self, inputs: Mapping[str, str], parameters: Mapping[str, Any], responses: _Responses
    ) -> None:
        try:
            what = asked(inputs, parameters, self._backend.names.base)
            if isinstance(what, ControlBody):
                responses.send(controlled(await self._control(what)), last=True)
                return
            self._gate.enter(1)
            try:
                await self._generate(what, responses)
            finally:
                self._gate.leave(1)
        except Exception as error:
            responses.fail(error)

    async def _generate(self, body: ChatBody | TextBody, responses: _Responses) -> None:
        """Send the answer, as it comes or whole; give it up when the caller leaves or the time is over."""
        deadline = self._loop.time() + self._config.serving.request_timeout
        prompts = self._backend.prompts
        if isinstance(body, ChatBody):
            sampling = body.asked(self._config.serving.default_max_tokens)
            reading = prompts.conversation(body.conversation, "messages")
        else:
            sampling = body.asked()
            reading = prompts.text(str(body.prompt), "text_input")
        outboxes: list[Outbox] = []
        try:
            async with asyncio.timeout_at(deadline):
                ids = await reading
                served, outboxes = await self._backend.submit(body.model, [ids], [sampling], deadline)
                await self._forward(outboxes[0], responses, served.id, whole=not body.stream)
        except TimeoutError:
            raise timed_out() from None
        finally:
            self._backend.worker.cancel(outboxes)

    async def _forward(self, outbox: Outbox, responses: _Responses, model: str, *, whole: bool) -> None:
        """Send what comes, or all of it in one response at the end."""
        so_far: Output | None = None
        look = self._loop.time() + _LOOK
        while so_far is None or so_far.finish_reason is None:
            output = await outbox.take()
            so_far = joined(so_far, output) if whole and so_far else output
            last = output.finish_reason is not None
            if last or not whole:
                responses.send(answered(so_far, model), last=last)
            if not last and self._loop.time() > look:
                look = self._loop.time() + _LOOK
                if responses.unwanted:
                    raise Refusal("the caller left", 499)

    async def _control(self, body: ControlBody) -> Mapping[str, Any]:
        """Do what is asked to adapters, and say what holds then."""
        registry = self._backend.registry
        adapter, alias = body.adapter or "", body.alias or ""
        changes: Mapping[str, Callable[[], object]] = {
            "load": lambda: registry.load(adapter, body.version),
            "unload": lambda: registry.unload(adapter),
            "alias": lambda: registry.alias(alias, adapter),
            "unalias": lambda: registry.unalias(alias),
        }
        if body.control != "list":
            if not self._config.administer:
                raise Refusal(
                    f"{body.control} is not for requests here: config.pbtxt says so with administer false",
                    403,
                )
            await self._backend.change(changes[body.control])
        published, engine = registry.published, self._backend.worker.stats
        return {
            "base": self._backend.names.base,
            "adapters": published.listed(),
            "names": dict(published.names),
            "aliases": dict(published.aliases),
            "reasons": dict(registry.reasons),
            "engine": asdict(engine),
        }


class _Responses:
    """Where the responses to one request go; Triton takes them from any thread."""

    def __init__(self, triton: Any, sender: Any) -> None:
        self._triton, self._sender = triton, sender

    @property
    def unwanted(self) -> bool:
        """Whether the caller has left."""
        return bool(self._sender.is_cancelled())

    def send(self, tensors: Tensors, *, last: bool) -> None:
        """Send a response."""
        outputs = [self._triton.Tensor(name, _array(value)) for name, value in tensors.items()]
        self._send(self._triton.InferenceResponse(outputs), last)

    def fail(self, error: Exception) -> None:
        """Send what a caller is to know of an error as the last response."""
        reason = str(error)
        if not isinstance(error, SeektuneError):
            _log.error("a request failed", exc_info=error)
            error = Refusal(f"the model failed ({type(error).__name__}): see the server's log", 500)
            reason = str(error)
        code = getattr(self._triton.TritonError, code_of(error))
        self._send(self._triton.InferenceResponse(error=self._triton.TritonError(reason, code)), True)

    def _send(self, response: Any, last: bool) -> None:
        flags = self._triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
        self._sender.send(response, flags=flags)


def _stub() -> Any:
    """Triton's own module, found only in a process that its Python backend has started."""
    try:
        import triton_python_backend_utils
    except ImportError:
        raise ModelError(
            "this is no process of Triton's: start tritonserver on the model repository"
        ) from None
    return triton_python_backend_utils


def _refuse_several(groups: Sequence[Mapping[str, Any]]) -> None:
    count = sum(int(group.get("count", 1)) * max(1, len(group.get("gpus", ()))) for group in groups)
    if count != 1:
        raise ConfigError(
            f"instance_group asks for {count} instances, each a process with adapters of its own: ask for "
            "one, as the engine answers many requests together (of several GPUs name one: gpus: [ 0 ])"
        )


def _rooted(config: TritonConfig, model: Path) -> TritonConfig:
    """With the adapter root, which config.pbtxt names as seen from the model's folder."""
    root = config.serving.adapter_root
    if root is None:
        return config
    serving = config.serving.model_copy(update={"adapter_root": (model / root).resolve()})
    return config.model_copy(update={"serving": serving})


def _device(args: Mapping[str, str]) -> str:
    return f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"


def _texts(triton: Any, request: Any) -> dict[str, str]:
    """The inputs a request came with."""
    found: dict[str, str] = {}
    for name in INPUTS:
        tensor = triton.get_input_tensor_by_name(request, name)
        if tensor is None:
            continue
        values = tensor.as_numpy().ravel().tolist()
        if len(values) != 1:
            raise Refusal(f"{name} has {len(values)} texts: send one in a request", param=name)
        try:
            found[name] = values[0].decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refusal(f"{name} is not UTF-8: byte {error.start}", param=name) from None
    return found


def _array(value: str | Sequence[int]) -> np.ndarray:
    """A tensor's values as Triton takes them: a text as bytes."""
    if isinstance(value, str):
        return np.array([value.encode("utf-8")], dtype=np.object_)
    return np.array(value, dtype=np.int32)
