"""Real servers on tiny models."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai

from seektune.config.serving import serve_config
from seektune.models.load import Loaded
from seektune.serving.app import Service
from seektune.serving.auth import Keys, read_keys
from seektune.serving.server import listen, open_service, server_of

USE, ADMINISTER = "use-0123456789abcdef", "adm-0123456789abcdef"
KEYS = read_keys(None, {"SEEKTUNE_API_KEYS": f"use:{USE},administer:{ADMINISTER}"})


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    service: Service
    closing: ExitStack  # clients

    def openai(self, key: str = "none", **options: Any) -> openai.OpenAI:
        settings = {"max_retries": 0, "timeout": 120.0} | options
        return self.closing.enter_context(openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, **settings))

    def call(self, method: str, path: str, key: str = "", **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        headers |= options.pop("headers", {})
        return httpx.request(method, self.url + path, headers=headers, timeout=120, **options)


@contextmanager
def running(
    loaded: Loaded,
    keys: Keys | None = None,
    *overrides: str,
    adapters: Mapping[str, Path] | None = None,
    **serving: Any,
) -> Iterator[Running]:
    """A server in a thread of its own, ended in order."""
    service = open_service(loaded, serve_config({"port": 0} | serving, overrides), keys or Keys(), adapters)
    server = server_of(service)
    with listen(service.config) as listening:
        thread = threading.Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            with ExitStack() as closing:
                yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}", service, closing)
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()
