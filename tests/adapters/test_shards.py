"""Parts and wholes in one process; tests/training/test_sharded.py has two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from seektune.adapters.attach import attach, deltas_of
from seektune.adapters.shards import is_part, is_sharded, local, whole, whole_adapter
from seektune.adapters.store import load_adapter, save_adapter
from seektune.config.adapter import AdapterSpec
from seektune.errors import AdapterError
from seektune.models.load import Loaded, load_model


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def adapted() -> Loaded:
    spec = AdapterSpec(r=4, target_modules=["attention", "routed"], init_lora_weights=False)
    return attach(load_model("tiny/deepseek_v3"), spec)


def test_a_plain_tensor_is_local_and_whole_as_it_is() -> None:
    tensor = torch.randn(3)
    assert not is_part(tensor)
    assert local(tensor) is tensor
    assert whole(tensor) is tensor


@pytest.mark.usefixtures("alone")
def test_a_sharded_adapter_is_saved_whole_and_sharded_again_afterwards(tmp_path: Path) -> None:
    loaded = adapted()
    assert not is_sharded(loaded)
    before = {key: p.detach().clone() for key, p in loaded.model.named_parameters() if p.requires_grad}
    save_adapter(loaded, tmp_path / "plain")
    mesh = init_device_mesh("cpu", (1,))
    deltas = deltas_of(loaded, "default").values()
    for delta in deltas:
        for name, parameter in list(delta.named_parameters()):
            setattr(delta, name, torch.nn.Parameter(distribute_tensor(parameter.detach(), mesh)))
    assert is_sharded(loaded)
    with pytest.raises(AdapterError, match="whole_adapter"):
        save_adapter(loaded, tmp_path / "sharded")
    with whole_adapter(loaded):
        save_adapter(loaded, tmp_path / "sharded")
    parameters = [parameter for delta in deltas for parameter in delta.parameters()]
    assert all(isinstance(p, DTensor) and p.requires_grad for p in parameters)
    read = load_adapter(load_model("tiny/deepseek_v3"), tmp_path / "sharded")
    after = {key: p for key, p in read.model.named_parameters() if p.requires_grad}
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("plain", "sharded")]
    assert weights[0] == weights[1]
