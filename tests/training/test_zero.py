"""DeepSpeed's ZeRO-2 engine, as accelerate prepares it, on gloo and the CPU; skipped without the package."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from sharded_runs import LAUNCH, WORKER, alone, sharded

from seektune.errors import TrainingError
from seektune.training import checkpoint
from seektune.training.zero import configure

ZERO = """
import atexit
from dataclasses import asdict
shard()

def comparable(step):
    return replace(step, seconds=0)

def weights(loaded):
    return {k: p.detach().clone() for k, p in loaded.model.named_parameters() if p.requires_grad}

whole, run = start(True)
expected = [comparable(step) for step in run]
assert type(run._watch._trainer.module).__name__ == "DeepSpeedEngine"
_, run = start(True)
seen = [comparable(step) for step in islice(run, 3)]
state = run.state()
run.close()
parts = run._watch._trainer.optimizer._parts
held = sum(part.numel() for part in parts.single_partition_of_fp32_groups)
assert held < 0.6 * sum(p.numel() for p in weights(whole).values())
if rank == 0:
    checkpoint.write(state, folder / "checkpoints")
torch.distributed.barrier()
loaded, run = start(True, checkpoint.newest(folder / "checkpoints")[0])
seen += [comparable(step) for step in run]
assert seen == expected, (rank, seen, expected)
torch.testing.assert_close(weights(loaded), weights(whole), rtol=0, atol=0)
if rank == 0:
    lines = [[s.loss, s.grad_norm, s.tokens, s.epoch, s.eval_loss or 0] for s in expected]
    (folder / "out.json").write_text(json.dumps(lines))
torch.distributed.barrier()
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_zero2_trains_what_one_process_does_and_resumes_bit_for_bit(
    dtype: str, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    changes = {"launch": str(LAUNCH / "zero2_1x8.yaml"), "dtype": dtype}
    lines = sharded(tmp_path, rows, WORKER + ZERO, **changes)
    _, run = alone(rows, **changes)
    within = 1e-5 if dtype == "float32" else 1e-2
    for line, step in zip(lines, run, strict=True):
        expected = [step.loss, step.grad_norm, step.tokens, step.epoch, step.eval_loss or 0]
        assert line == pytest.approx(expected, rel=within)
    state, _ = checkpoint.newest(tmp_path / "checkpoints")
    _, run = alone(rows, resume=state, **changes)  # without DeepSpeed
    assert [step.loss for step in run] == pytest.approx([line[0] for line in lines[3:]], rel=within)


def launched(kind: DistributedType, config: dict[str, Any]) -> Any:
    plugin = SimpleNamespace(deepspeed_config=config)
    return SimpleNamespace(distributed_type=kind, state=SimpleNamespace(deepspeed_plugin=plugin))


def test_other_launches_are_left_alone() -> None:
    config: dict[str, Any] = {}
    assert not configure(launched(DistributedType.MULTI_CPU, config), torch.float16)
    assert config == {}


def test_deepspeed_neither_clips_nor_accumulates_and_needs_no_data_loader() -> None:
    config: dict[str, Any] = {"gradient_clipping": "auto", "zero_optimization": {"stage": 2}}
    assert configure(launched(DistributedType.DEEPSPEED, config), torch.bfloat16)
    assert (config["gradient_clipping"], config["gradient_accumulation_steps"]) == (0.0, 1)
    assert config["train_micro_batch_size_per_gpu"] == 1
    assert config["zero_optimization"] == {"stage": 2}


def test_float16_under_deepspeed_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"training\.bf16"):
        configure(launched(DistributedType.DEEPSPEED, {}), torch.float16)
