"""Training a model whose layers two processes hold in parts: accelerate's FSDP2, on gloo and the CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sharded_runs import WORKER, alone, sharded, trained

from seektune.adapters.store import load_adapter
from seektune.models.load import load_model
from seektune.training import checkpoint

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
"""
)


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
