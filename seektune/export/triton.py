"""A base and an adapter as a model repository of NVIDIA Triton's, with what it takes to start and call it.

    models/NAME/config.pbtxt, 1/model.py    the repository; model.py names seektune's class and nothing else
    adapters/ADAPTER/1/                     what the model serves; adapters put beside it are served too
    serve.sh, README.md

Adapters lie outside the repository: Triton would start the whole model anew for a change within.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from seektune.adapters.checked import check_adapter
from seektune.adapters.folder import FILES
from seektune.adapters.store import Limits
from seektune.config.triton import INPUTS, OUTPUTS, TritonConfig, TritonExport, parameters_of
from seektune.export.draft import draft_of
from seektune.export.triton_serve import Service, readme, script
from seektune.models.fetch import lasting_name
from seektune.models.load import Loaded
from seektune.models.tiny import PREFIX as TINY
from seektune.runlog import write_text

MODEL = '''"""Where Triton looks for its model: one process with the base, its adapters and the engine."""

from seektune.serving.triton_model import TritonPythonModel  # noqa: F401
'''
ROOT = "../../adapters"
"""The adapters as seen from the model's folder."""
POLL = 2.0
"""Seconds between two looks at them."""


def export_triton(loaded: Loaded, adapter: Path, name: str, config: TritonExport, out: Path) -> str:
    """Write `out` for Triton, the folder `adapter` in it as `name`; returns the model's name there.

    Raises AdapterError for an adapter that the model would not load, ConfigError when `out` exists.
    """
    check_adapter(loaded, adapter, name, limits=Limits(max_rank=config.serving.max_lora_rank))
    model = config.name or re.sub(r"[^A-Za-z0-9_.-]", "_", Path(loaded.source).name)
    base = lasting_name(config.base_model)
    with draft_of(out) as draft:
        folder = draft / "models" / model
        (folder / "1").mkdir(parents=True)
        write_text(folder / "config.pbtxt", pbtxt(model, config.kind, _placed(config, base, name)))
        write_text(folder / "1" / "model.py", MODEL)
        version = draft / "adapters" / name / "1"
        version.mkdir(parents=True)
        for file in FILES:
            if (adapter / file).is_file():
                shutil.copyfile(adapter / file, version / file)
        service = Service(model, name, None if base.startswith(TINY) else base, config.kind == "gpu")
        write_text(draft / "serve.sh", script(service))
        (draft / "serve.sh").chmod(0o755)
        write_text(draft / "README.md", readme(service))
    return model


def pbtxt(model: str, kind: str, config: TritonConfig) -> str:
    """`config.pbtxt`: one instance, responses decoupled from requests, `config` as parameters."""
    instance = "kind: KIND_GPU count: 1 gpus: [ 0 ]" if kind == "gpu" else "kind: KIND_CPU count: 1"
    inputs = ",\n".join(
        f"  {{ name: {_quoted(name)} data_type: {dtype} dims: [ 1 ] optional: true }}"
        for name, dtype in INPUTS.items()
    )
    outputs = ",\n".join(
        f"  {{ name: {_quoted(name)} data_type: {dtype} dims: [ {length} ] }}"
        for name, (dtype, length) in OUTPUTS.items()
    )
    return f"""name: {_quoted(model)}
backend: "python"
max_batch_size: 0  # the engine joins requests itself, token by token
model_transaction_policy {{ decoupled: true }}
input [
{inputs}
]
output [
{outputs}
]
# One process holds the base, all adapters and the engine.
instance_group [ {{ {instance} }} ]
{_parameters(parameters_of(config))}"""


def _placed(config: TritonConfig, base: str, adapter: str) -> TritonConfig:
    """With the adapter and where it lies, unless settings say otherwise."""
    serving = {"adapter_root": Path(ROOT), "adapter_poll": POLL} | config.serving.model_dump(
        exclude_unset=True
    )
    return config.model_copy(
        update={
            "base_model": base,
            "administer": config.administer,  # shown even where it is false
            "adapters": (adapter, *(other for other in config.adapters if other != adapter)),
            "serving": config.serving.model_copy(update=serving),
        }
    )


def _parameters(parameters: Mapping[str, str]) -> str:
    return "".join(
        f"parameters {{ key: {_quoted(key)} value {{ string_value: {_quoted(value)} }} }}\n"
        for key, value in parameters.items()
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
