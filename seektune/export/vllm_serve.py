"""How an exported adapter is served by vLLM: the script that starts it and a page that says so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from shlex import quote

_NO_ROTARY_OP = '{"custom_ops":["all","-rotary_embedding"]}'


@dataclass(frozen=True)
class Service:
    """What `vllm serve` is to serve."""

    served: str  # name@version of the adapter, which is its folder's name too
    base: str  # folder or hub id
    base_name: str  # the base's served name
    max_lora_rank: int
    latent_attention: bool
    experts: bool  # whether the base has routed experts


def script(service: Service) -> str:
    """`serve.sh`; it binds this machine's own address and hands further arguments to vLLM."""
    return f"""#!/usr/bin/env bash
# Serves the base and {service.served} with vLLM; further arguments go to vLLM.
# BASE is another place of the base, PORT another port; DEVICE=cpu is for vLLM's CPU build.
set -euo pipefail
command -v vllm >/dev/null || {{ echo 'error: there is no command vllm here: pip install vllm' >&2; exit 2; }}
here=$(cd "$(dirname "$0")" && pwd)
base={quote(service.base)}
flags=()
if [ "${{DEVICE:-gpu}}" = cpu ]; then
{_on_cpu(service)}
fi
exec vllm serve "${{BASE:-$base}}" --served-model-name {quote(service.base_name)} \\
  --host 127.0.0.1 --port "${{PORT:-8000}}" \\
  --enable-lora --max-lora-rank {service.max_lora_rank} --max-loras 1 \\
  --lora-modules {quote(service.served)}="$here"/adapters/{quote(service.served)} \\
  ${{flags[@]+"${{flags[@]}}"}} "$@"
"""


def readme(service: Service) -> str:
    """How to start it, call it, and add versions while it runs."""
    said = json.dumps({"model": service.served, "messages": [{"role": "user", "content": "Hello"}]})
    return f"""# {service.served} for vLLM

    ./serve.sh
    curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
      -d {quote(said)}

`{service.base_name}` as `model` is the base alone. The part after @ names the content: a new version has
a new name, because vLLM may answer from caches of the old one when a name is used again.

vLLM runs float32 checkpoints in 16 bits: `./serve.sh --dtype float32` for the numbers of training.
{_cpu_page(service)}
`adapters/` can be vLLM's LoRA resolver folder: versions put there are served by their folder's name without
a restart (whoever reaches the port can then load them; the address is this machine's own):

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 VLLM_PLUGINS=lora_filesystem_resolver \\
      VLLM_LORA_RESOLVER_CACHE_DIR="$PWD/adapters" ./serve.sh

The resolver passes over an adapter whose `base_model_name_or_path` is not spelt as the base that vLLM opened:
with another `BASE`, write that place into its `adapter_config.json`.

The tensors are laid out for vLLM, one pair per expert: PEFT and seektune do not read this folder.
"""


def _on_cpu(service: Service) -> str:
    if service.experts:
        return (
            "  echo 'error: vLLM on CPU crashes with LoRA where the base has routed experts:"
            " use a GPU, or seektune serve' >&2\n  exit 2"
        )
    if service.latent_attention:
        return f"  flags=(--compilation-config {quote(_NO_ROTARY_OP)})  # its rotary op is wrong for MLA"
    return "  :  # nothing more to set"


def _cpu_page(service: Service) -> str:
    if service.experts:
        return "vLLM's CPU build crashes with LoRA on a mixture of experts: this needs a GPU.\n"
    return "vLLM's CPU build: `DEVICE=cpu ./serve.sh`.\n"
