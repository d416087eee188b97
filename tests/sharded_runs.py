"""Two processes that hold parts, on gloo and the CPU, and the same run in one process.

accelerate itself shards on GPUs only. The worker tells its state otherwise after the processes have met, and
from there on runs accelerate's own preparation with the settings of the files in `examples/launch`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from processes import run_with_rows

from seektune.adapters.attach import attach
from seektune.config.adapter import AdapterSpec
from seektune.data.batches import Batches
from seektune.models.load import Loaded, load_model
from seektune.training.loop import Run, train
from seektune.training.state import State

LAUNCH = Path(__file__).parents[1] / "examples" / "launch"

WORKER = """
import json
import os
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
import torch, yaml
from accelerate import PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor
from seektune.adapters.attach import attach
from seektune.adapters.shards import is_sharded, whole_adapter
from seektune.adapters.store import save_adapter
from seektune.config.adapter import AdapterSpec
from seektune.data.batches import Batches
from seektune.errors import AdapterError, GateError
from seektune.models.load import load_model
from seektune.training import checkpoint, world as worlds
from seektune.training.loop import train
from seektune.types import Sample

folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
rank, size = worlds.world()
content = yaml.safe_load(open(options["launch"]))
SHARDS = content.get("fsdp_config") or content["deepspeed_config"]

def shard():
    worlds.check_launch = lambda *_: None
    if "zero2" in options["launch"]:
        PartialState._shared_state["distributed_type"] = DistributedType.DEEPSPEED
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"] = str(SHARDS["zero_stage"])
        return
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    names = {"fsdp_auto_wrap_policy": "FSDP_AUTO_WRAP_POLICY", "fsdp_version": "FSDP_VERSION",
             "fsdp_reshard_after_forward": "FSDP_RESHARD_AFTER_FORWARD"}
    for key, name in names.items():
        os.environ[name] = str(SHARDS[key])

samples = tuple(Sample(*fields) for fields in json.loads((folder / "rows.json").read_text()))

def start(sharded, resume=None):
    loaded = load_model(options["model"], dtype=options["dtype"])
    spec = AdapterSpec(r=4, target_modules=options["targets"], lora_dropout=options["dropout"])
    attach(loaded, spec)
    at, of = (rank, size) if sharded else (0, 1)
    batches = Batches(samples=samples, batch_size=1, rank=at, world_size=of, seed=1)
    run = train(
        loaded, batches, eval_batches=batches, max_steps=5, learning_rate=1e-2, eval_steps=2,
        gradient_accumulation_steps=4 // of, gradient_checkpointing=options["checkpointing"],
        output_dir=folder if sharded else None, resume=resume,
    )
    return loaded, run
"""


def options(model: str = "tiny/deepseek_v3", **changes: Any) -> dict[str, Any]:
    targets = ["all-linear", "routed"] if "deepseek" in model else ["all-linear"]
    settings = {
        "model": model,
        "dtype": "float32",
        "dropout": 0.0,
        "checkpointing": False,
        "targets": targets,
    }
    return settings | {"launch": str(LAUNCH / "fsdp2_1x8.yaml")} | changes


def sharded(folder: Path, rows: Any, script: str, **changes: Any) -> Any:
    """What the two processes of `script` leave in out.json."""
    return run_with_rows(folder, rows, script, json.dumps(options(**changes)))


def alone(rows: Any, resume: State | None = None, **changes: Any) -> tuple[Loaded, Run]:
    """The same in this process."""
    chosen = options(**changes)
    loaded = load_model(chosen["model"], dtype=chosen["dtype"])
    attach(loaded, AdapterSpec(r=4, target_modules=chosen["targets"], lora_dropout=chosen["dropout"]))
    batches = Batches(samples=rows.samples, batch_size=1, seed=1)
    settings = {"max_steps": 5, "learning_rate": 1e-2, "eval_steps": 2, "gradient_accumulation_steps": 4}
    return loaded, train(loaded, batches, eval_batches=batches, resume=resume, **settings)


def trained(loaded: Loaded) -> dict[str, torch.Tensor]:
    return {key: p.detach() for key, p in loaded.model.named_parameters() if p.requires_grad}
