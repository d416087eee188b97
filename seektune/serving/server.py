"""The application on a socket: uvicorn, its limits, and an end in order."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

import uvicorn

from seektune.config.serving import ServeConfig, ServingConfig
from seektune.errors import ConfigError
from seektune.models.load import Loaded
from seektune.serving.app import Service, create_app
from seektune.serving.auth import Keys, refuse_open_address
from seektune.serving.backend import open_backend
from seektune.serving.completions import Answering
from seektune.serving.connections import protocol_of

_LOOK = 0.1  # seconds between two looks at whether to wait for answers any longer
_SAY = 5.0  # seconds for the last word to those whose answers were cut off


class Server(uvicorn.Server):
    """The first signal lets answers under way come to their end, which a time limit or the second one sets.

    Those that are not complete then end with a reason; the third signal leaves no time for that.
    """

    def __init__(self, config: uvicorn.Config, drain_timeout: float, end_answers: Callable[[], None]) -> None:
        super().__init__(config)
        self._drain_timeout, self._end_answers = drain_timeout, end_answers
        self._hurried = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn asks, which would take only a second SIGINT, and that for no word to anyone."""
        if self.should_exit and not self._hurried:
            self._hurried = True
            return
        super().handle_exit(signal.SIGINT if self.should_exit else sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn asks, which would cut answers off without a word."""
        ending = asyncio.ensure_future(self._end_in_time())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end_in_time(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + self._drain_timeout
        while loop.time() < until and not self._hurried:
            await asyncio.sleep(_LOOK)
        await asyncio.to_thread(self._end_answers)


def server_of(service: Service) -> Server:
    """A server that is not running yet."""
    config, backend = service.config, service.backend
    return Server(
        uvicorn.Config(
            create_app(service),
            host=config.host,
            port=config.port,
            # h11 bounds the size of headers, and nothing of it is C.
            http=protocol_of(config.max_connections, config.header_timeout, backend.metrics),  # type: ignore[arg-type]
            ws="none",
            loop="asyncio",
            lifespan="on",
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=32 << 10,
            timeout_graceful_shutdown=math.ceil(config.drain_timeout + _SAY),
        ),
        config.drain_timeout,
        backend.worker.stop,
    )


def listen(config: ServingConfig) -> socket.socket:
    """A socket at the configured address. Raises ConfigError where it cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )[0]
        # asyncio turns Nagle's delay off, 40 ms of every answer, only where the protocol is named.
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise ConfigError(f"cannot listen on {config.host}, port {config.port}: {error.strerror}") from None
    return listening


def open_service(
    loaded: Loaded, config: ServeConfig, keys: Keys, adapters: Mapping[str, Path] | None = None
) -> Service:
    """All that the application needs, the engine's thread running and adapters published; to be closed.

    `adapters` are folders from anywhere, by the name they are served under. Raises ConfigError for an
    address that others can reach while there are no keys, AdapterError for an adapter that does not load.
    """
    serving = config.serving
    refuse_open_address(serving.host, keys)
    backend = open_backend(loaded, config, adapters)
    return Service(backend, Answering(backend, serving), serving, keys)
