"""The application on a socket: uvicorn, its limits, and an end in order."""

from __future__ import annotations

import signal
from types import FrameType

import uvicorn

from seektune.config.serving import ServeConfig
from seektune.generation.engine import Engine
from seektune.models.load import Loaded
from seektune.serving.app import Service, create_app
from seektune.serving.auth import Keys, refuse_open_address
from seektune.serving.completions import Answering
from seektune.serving.metrics import Metrics
from seektune.serving.served import Names
from seektune.serving.worker import Worker


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


def open_service(loaded: Loaded, config: ServeConfig, keys: Keys) -> Service:
    """All that the application needs, around one engine; the engine's thread is not started yet.

    Raises ConfigError for an address that others can reach while there are no keys.
    """
    refuse_open_address(config.serving.host, keys)
    engine = Engine(loaded, config=config.engine)
    metrics = Metrics()
    worker = Worker(engine, metrics)
    metrics.watch(lambda: worker.stats)
    names = Names(loaded)
    answering = Answering(loaded, worker, names, config.serving, engine.max_model_len)
    return Service(worker, names, answering, metrics, config.serving, keys)
