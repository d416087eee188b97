"""Every frozen tensor is watched, and named when it moves, whether it is held whole or in parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

from seektune.adapters.attach import attach, deltas_of
from seektune.adapters.frozen import Frozen
from seektune.config.adapter import AdapterSpec
from seektune.models.load import Loaded, load_model

NORM = "model.layers.0.input_layernorm.weight"
ROUTER = "model.layers.1.mlp.gate.weight"
WEIGHT = "model.layers.0.self_attn.o_proj.base_layer.weight"


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[dist.DeviceMesh]:
    """Of one process."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def watched() -> tuple[Loaded, Frozen]:
    loaded = attach(load_model("tiny/deepseek_v3"), AdapterSpec(r=4, target_modules=["attention"]))
    return loaded, Frozen(loaded, deltas_of(loaded, "default"))


def shard(loaded: Loaded, mesh: dist.DeviceMesh, change: float = 0.0) -> None:
    """Hold every parameter as this process's part of it; `change` is added to one of them on the way."""
    for key, parameter in list(loaded.model.named_parameters()):
        module, _, name = key.rpartition(".")
        value = parameter.detach() + (change if key == WEIGHT else 0.0)
        part = torch.nn.Parameter(distribute_tensor(value, mesh), parameter.requires_grad)
        setattr(loaded.model.get_submodule(module), name, part)


def test_what_trains_may_move_and_nothing_else() -> None:
    loaded, frozen = watched()
    parameters = dict(loaded.model.named_parameters())
    with torch.no_grad():
        for parameter in parameters.values():
            if parameter.requires_grad:
                parameter += 1
    assert frozen.moved_base() == frozen.moved_router() == []
    with torch.no_grad():
        parameters[WEIGHT][0, 0] += 1e-3
        parameters[ROUTER][0, 0] += 1e-3
    assert frozen.moved_base() == ["model.layers.0.self_attn.o_proj.weight is frozen but changed"]
    assert frozen.moved_router() == [f"{ROUTER} belongs to the router, which must not change"]


def test_parts_are_compared_with_the_whole_once_and_watched_from_then_on(mesh: dist.DeviceMesh) -> None:
    loaded, frozen = watched()
    identity = frozen.identity
    shard(loaded, mesh)
    assert frozen.sharded() == frozen.moved_base() == frozen.moved_router() == []
    assert frozen.identity == identity
    parameters = dict(loaded.model.named_parameters())
    for key in (NORM, ROUTER):
        parameters[key].to_local().view(-1)[0] += 1e-3
    assert frozen.moved_base() == [f"{NORM} is frozen but changed"]
    assert frozen.moved_router() == [f"{ROUTER} belongs to the router, which must not change"]


def test_what_changes_while_it_is_sharded_is_named(mesh: dist.DeviceMesh) -> None:
    loaded, frozen = watched()
    shard(loaded, mesh, change=1e-3)
    (line,) = frozen.sharded()
    assert line == "model.layers.0.self_attn.o_proj.weight is not what it was before it was sharded"


def test_a_part_that_nobody_has_vouched_for_counts_as_moved(mesh: dist.DeviceMesh) -> None:
    loaded, frozen = watched()
    shard(loaded, mesh)
    assert f"{NORM} is frozen but changed" in frozen.moved_base()
