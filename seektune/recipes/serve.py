"""`seektune serve`: one base and its adapters behind an OpenAI-compatible HTTP API."""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from seektune.config.serving import ServeConfig
from seektune.errors import ConfigError
from seektune.recipes.adapted import adapter_folder, adapter_name, open_base, trained_with
from seektune.serving.auth import in_url, read_keys, refuse_open_address
from seektune.serving.backend import settle
from seektune.serving.server import listen, open_service, server_of


def run(
    model: str,
    *,
    config: ServeConfig,
    adapters: Sequence[str] = (),
    api_keys: Path | None = None,
    dtype: str = "auto",
    console: Console | None = None,
) -> None:
    """Serve until a signal asks for an end; `adapters` are `name=folder`, a run's or an adapter's.

    A run folder as `model` is its base with its adapter under the run's name. Raises ConfigError before
    anything is loaded for an address that others can reach while there are no keys.
    """
    console = console or Console(highlight=False, markup=False)
    keys = read_keys(api_keys, os.environ)
    refuse_open_address(config.serving.host, keys)
    asked = [named(text) for text in adapters]
    with listen(config.serving) as listening:  # an address that is taken is known before anything is loaded
        base, own = open_base(model, dtype)
        given = [(adapter_name(folder), folder) for folder in own] + asked
        if doubles := [name for name, times in Counter(name for name, _ in given).items() if times > 1]:
            raise ConfigError(
                f"two adapters have one name: {', '.join(doubles)}; give each its own name=folder"
            )
        with closing(open_service(base, config, keys, dict(given))) as service:
            names = [served.name for served in service.backend.names.all()]
            settle()
            listening.listen()  # who calls as soon as the page says so waits and is not refused
            runs = [model, *(text.partition("=")[2] for text in adapters)]
            training = "".join(map(trained_with, runs))
            console.print(page(listening, names, bool(keys.roles), training), soft_wrap=True)
            server_of(service).run([listening])


def named(text: str) -> tuple[str, Path]:
    """`name=folder` → both, the folder that of the adapter itself where a run's was given."""
    name, equals, folder = text.partition("=")
    if not name or not equals or not folder:
        raise ConfigError(f"--adapters {text!r} is not name=folder, for example medical=runs/medical")
    return name, adapter_folder(Path(folder))


def page(listening: socket.socket, names: Sequence[str], has_keys: bool, training: str = "") -> str:
    """What is served, and how to call it."""
    host, port = listening.getsockname()[:2]
    url = f"http://{in_url(host)}:{port}"
    key = " -H 'Authorization: Bearer KEY'" if has_keys else ""
    said = json.dumps({"model": names[-1], "messages": [{"role": "user", "content": "Hello"}]})
    return (
        f"serving {', '.join(names)} at {url}/v1 ({'API keys' if has_keys else 'no API key needed here'})\n"
        f"  open {url}/ in a browser\n"
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{said}'\n"
        f"{training}"
        "Ctrl-C ends when the answers under way are complete; pressed again, it cuts them off"
    )
