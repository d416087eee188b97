"""The application on a socket: uvicorn, its limits, and an end in order."""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
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


class Server(uvicorn.Server):
    """The first signal lets answers under way come to their end, the second one stops."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn asks, which would take only a second SIGINT."""
        super().handle_exit(signal.SIGINT if self.should_exit else sig, frame)


def server_of(service: Service) -> Server:
    """A server that is not running yet."""
    config = service.config
    return Server(
        uvicorn.Config(
            create_app(service),
            host=config.host,
            port=config.port,
            http="h11",  # bounds the size of headers, and nothing of it is C
            ws="none",
            loop="asyncio",
            lifespan="on",
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=config.max_connections,
            h11_max_incomplete_event_size=32 << 10,
            timeout_graceful_shutdown=max(1, round(config.drain_timeout)),
        )
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
