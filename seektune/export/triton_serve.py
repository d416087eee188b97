"""How an exported model repository is served by Triton: the script that starts it and a page that says so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from shlex import quote

IMAGE = "nvcr.io/nvidia/tritonserver:24.12-py3"
"""The first image whose Python, 3.12, runs seektune is that of 24.11."""


@dataclass(frozen=True)
class Service:
    """What Triton is to serve."""

    model: str  # its name there
    adapter: str
    base: str | None  # folder or hub id; None: it is made, not read
    gpu: bool


def script(service: Service) -> str:
    """`serve.sh`; it binds this machine's own addresses and hands further arguments to tritonserver."""
    return f"""#!/usr/bin/env bash
# Serves these models with Triton at 127.0.0.1; further arguments go to tritonserver.
# TRITON_ENV is the environment that seektune's `make triton-env` makes; without it, tritonserver is taken
# from PATH, as in NVIDIA's image. HTTP_PORT, GRPC_PORT and METRICS_PORT are other ports.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
server=(tritonserver)
if [ -n "${{TRITON_ENV:-}}" ]; then
  env=$(cd "$TRITON_ENV" && pwd)
  site=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  # First this interpreter's own library: the system may have another of the same name.
  libraries=$("$env/bin/python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
  export LD_LIBRARY_PATH="$libraries:$site/nvidia_pytriton.libs"
  export PATH="$env/bin:$PATH"  # the model's Python is the first one there
  server=("$site/pytriton/tritonserver/bin/tritonserver" --backend-directory="$env/backends")
fi
cd "$here"  # the models' Python looks for packages here too: one named triton would hide the compiler's
exec "${{server[@]}}" --model-repository="$here/models" \\
  --disable-auto-complete-config --model-control-mode=explicit --load-model={quote(service.model)} \\
  --http-address=127.0.0.1 --http-port="${{HTTP_PORT:-8000}}" \\
  --grpc-address=127.0.0.1 --grpc-port="${{GRPC_PORT:-8001}}" \\
  --metrics-address=127.0.0.1 --metrics-port="${{METRICS_PORT:-8002}}" "$@"
"""


def readme(service: Service) -> str:
    """How to start it, call it, and change adapters while it runs."""
    url = f"http://127.0.0.1:8000/v2/models/{service.model}"
    turns = json.dumps([{"role": "user", "content": "Hello"}])
    return f"""# {service.model} with the adapter {service.adapter}, for NVIDIA Triton

{_start(service)}
Then:

    curl {url}/generate \\
      -d {_body({"text_input": "Hello", "parameters": {"adapter": service.adapter, "max_tokens": 32}})}
    curl -N {url}/generate_stream \\
      -d {_body({"messages": turns, "parameters": {"adapter": service.adapter, "stream": True}})}

Without `adapter` the base answers. Parameters are those of OpenAI's API: max_tokens, temperature (1 unless
given), top_p, top_k, min_p, seed, stop, penalties; lists go into the input `sampling_parameters`, as JSON.
Over gRPC use the stream (`async_stream_infer`): Triton has no other call for responses that come by and by.

Adapters, in the one process that runs:

- a folder put at `adapters/NAME/VERSION/` is served seconds later as `NAME`; one removed is served no more
- with `administer` true in config.pbtxt, requests load and unload too:

      curl {url}/generate -d {_body({"parameters": {"control": "load", "adapter": "NAME"}})}

  `list`, `load`, `unload`, `alias` (with `alias` and `adapter`), `unalias`; `list` is always allowed

Triton's own load of the model (`v2/repository/models/{service.model}/load`) with another `adapters` parameter
works as well, by a new process that loads the base again.

Triton asks nobody who he is. Whoever reaches its repository calls can run code, and with `administer` anyone
changes adapters: keep the addresses this machine's own, or restrict those calls
(`--http-restricted-api`, `--grpc-restricted-protocol`) and put a proxy that knows its users in front.
"""


def _start(service: Service) -> str:
    gpus = " --gpus all" if service.gpu else ""
    folder = service.base if service.base and service.base.startswith("/") else None
    mount = f" -v {quote(f'{folder}:{folder}:ro')}" if folder else ""
    return f"""With the environment that `make triton-env` makes in seektune's folder, from there:

    TRITON_ENV=.venv-triton /path/to/this/folder/serve.sh

In NVIDIA's image (this line is written from its documentation; it has not been run):

    docker run --rm{gpus} --network host --shm-size 1g -v "$PWD:/repo"{mount} \\
      {IMAGE} \\
      bash -c 'pip install "seektune[serve]" "numpy<2" && /repo/serve.sh'
"""


def _body(content: object) -> str:
    return quote(json.dumps(content, ensure_ascii=False))
