"""Training a model whose layers two processes hold in parts: FSDP2 on gloo and the CPU.

accelerate itself shards on GPUs only. The worker tells its state otherwise after the processes have met, and
from there on runs accelerate's own preparation with the settings of `examples/launch/fsdp2_1x8.yaml`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_script

from seektune.adapters.attach import attach
from seektune.adapters.store import load_adapter
from seektune.config.adapter import AdapterSpec
from seektune.data.batches import Batches
from seektune.models.load import Loaded, load_model
from seektune.training import checkpoint
from seektune.training.loop import Run, train
from seektune.training.state import State

LAUNCH = Path(__file__).parents[2] / "examples/launch/fsdp2_1x8.yaml"

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
SHARDS = yaml.safe_load(open(options["launch"]))["fsdp_config"]

def shard():
    worlds.check_launch = lambda *_: None
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

COMPARED = (
    WORKER
    + """
shard()
loaded, run = start(True)
lines = [[s.loss, s.grad_norm, s.tokens, s.epoch, s.eval_loss or 0] for s in run]
assert is_sharded(loaded)
within = [p for layer in loaded.model.model.layers for p in layer.parameters()]
assert within and all(isinstance(p, DTensor) for p in within)
assert {p.requires_grad for p in within} == {True, False}
assert {p.dtype for p in within if p.requires_grad} == {torch.float32}
assert sum(p.to_local().numel() for p in within) < 0.6 * sum(p.numel() for p in within)
with whole_adapter(loaded):
    if rank == 0:
        save_adapter(loaded, folder / "adapter")
assert all(isinstance(p, DTensor) for layer in loaded.model.model.layers for p in layer.parameters())
try:
    save_adapter(loaded, folder / "part")
except AdapterError as error:
    assert "whole_adapter" in str(error)
else:
    raise AssertionError("a part of an adapter was saved as if it were the whole")
if rank == 0:
    (folder / "out.json").write_text(json.dumps(lines))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""
)

RESUMED = (
    WORKER
    + """
shard()

def weights(loaded):
    return {k: p.to_local() for k, p in loaded.model.named_parameters() if p.requires_grad}

whole, run = start(True)
expected = [replace(step, seconds=0) for step in run]
_, run = start(True)
seen = [replace(step, seconds=0) for step in islice(run, 3)]
state = run.state()
run.close()
assert not [t for t in [*state.parameters.values(), *state.optimizer.values()] if isinstance(t, DTensor)]
if rank == 0:
    checkpoint.write(state, folder / "checkpoints")
torch.distributed.barrier()
loaded, run = start(True, checkpoint.newest(folder / "checkpoints")[0])
seen += [replace(step, seconds=0) for step in run]
assert seen == expected, (rank, seen, expected)
torch.testing.assert_close(weights(loaded), weights(whole), rtol=0, atol=0)

# What a process holds of a frozen weight is watched: one bit of it is named.
loaded, run = start(True)
next(run)
norm = loaded.model.model.layers[0].self_attn.o_proj.weight.to_local()
norm[-1, -1] += 1e-3
try:
    run.close()
except GateError as error:
    assert "layers.0.self_attn.o_proj.weight is frozen but changed" in str(error), error
else:
    raise AssertionError("nobody saw it")
if rank == 0:
    (folder / "out.json").write_text(json.dumps([step.loss for step in expected]))
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""
)


def options(model: str = "tiny/deepseek_v3", **changes: Any) -> dict[str, Any]:
    targets = ["all-linear", "routed"] if "deepseek" in model else ["all-linear"]
    settings = {
        "model": model,
        "dtype": "float32",
        "dropout": 0.0,
        "checkpointing": False,
        "targets": targets,
    }
    return settings | {"launch": str(LAUNCH)} | changes


def sharded(folder: Path, rows: Any, script: str, **changes: Any) -> Any:
    """What the two processes of `script` leave in out.json."""
    fields = [(s.input_ids, s.targets, s.row_id, s.weight) for s in rows.samples]
    (folder / "rows.json").write_text(json.dumps(fields))
    run_script(folder, script, str(folder), json.dumps(options(**changes)))
    return json.loads((folder / "out.json").read_text())


def alone(rows: Any, resume: State | None = None, **changes: Any) -> tuple[Loaded, Run]:
    """The same in this process."""
    chosen = options(**changes)
    loaded = load_model(chosen["model"], dtype=chosen["dtype"])
    attach(loaded, AdapterSpec(r=4, target_modules=chosen["targets"], lora_dropout=chosen["dropout"]))
    batches = Batches(samples=rows.samples, batch_size=1, seed=1)
    settings = {"max_steps": 5, "learning_rate": 1e-2, "eval_steps": 2, "gradient_accumulation_steps": 4}
    return loaded, train(loaded, batches, eval_batches=batches, resume=resume, **settings)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"model": "tiny/llama"}, marks=pytest.mark.slow),
        pytest.param({"model": "tiny/deepseek_v2_lite"}, marks=pytest.mark.slow),
        pytest.param({"model": "tiny/deepseek_v4", "targets": ["routed"]}, marks=pytest.mark.slow),
        pytest.param({"checkpointing": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_two_processes_with_half_a_model_each_train_what_one_does(
    changes: dict[str, Any], rows: Any, tmp_path: Path
) -> None:
    lines = sharded(tmp_path, rows, COMPARED, **changes)
    loaded, run = alone(rows, **changes)
    for line, step in zip(lines, run, strict=True):
        expected = [step.loss, step.grad_norm, step.tokens, step.epoch, step.eval_loss or 0]
        assert line == pytest.approx(expected, rel=1e-5)
    again = load_adapter(load_model(loaded.source), tmp_path / "adapter")
    for key, tensor in trained(loaded).items():  # as a whole: Adam makes steps of gradients that are noise
        assert (trained(again)[key] - tensor).norm() <= 1e-4 * tensor.norm(), key
    checks = json.loads((tmp_path / "inventory.json").read_text())["checks"]
    assert (checks["gradients"], checks["first_update"], checks["frozen_unchanged"]) == (True, True, True)


@pytest.mark.slow
def test_a_bfloat16_base_and_float32_adapters_share_a_unit(rows: Any, tmp_path: Path) -> None:
    lines = sharded(tmp_path, rows, COMPARED, dtype="bfloat16")
    _, run = alone(rows, dtype="bfloat16")
    for line, step in zip(lines, run, strict=True):
        assert line[0] == pytest.approx(step.loss, rel=1e-2)  # bfloat16's own rounding, 2⁻⁸, at each step


@pytest.mark.slow
def test_a_sharded_run_resumes_bit_for_bit_and_one_process_goes_on_from_its_checkpoint(
    rows: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    losses = sharded(tmp_path, rows, RESUMED, dropout=0.0)
    state, _ = checkpoint.newest(tmp_path / "checkpoints")
    _, run = alone(rows, resume=state)
    assert [step.loss for step in run] == pytest.approx(losses[3:], rel=1e-5)
    assert "processes 2 → 1" in caplog.text


def trained(loaded: Loaded) -> dict[str, torch.Tensor]:
    return {key: p.detach() for key, p in loaded.model.named_parameters() if p.requires_grad}
