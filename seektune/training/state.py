"""What a run carries from one optimiser step to the next, taken out as copies and put back."""

from __future__ import annotations

import base64
import platform
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import FSDPModule

from seektune.errors import TrainingError
from seektune.training.zero import ZeroOptimizer

NAMED_DIFFERENCES = 8
"""Parameters an error names before it only counts."""

_PACKAGES = ("seektune", "torch", "transformers", "accelerate", "numpy")


@dataclass(frozen=True)
class State:
    """A run between two steps: tensors on the CPU that training does not touch, and plain JSON values.

    `optimizer` has the state of each parameter under `parameter.key`. Of a sharded run it is the whole.
    """

    parameters: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    values: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Optimiser steps applied so far."""
        return int(self.values["step"])

    @property
    def finite(self) -> bool:
        """Whether a run can go on from it: every value of the adapter is a number."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.parameters.values())


def tensors_of(
    module: nn.Module, optimizer: torch.optim.Optimizer | ZeroOptimizer
) -> tuple[dict[str, Tensor], dict[str, Tensor], list[dict[str, Any]]]:
    """Copies of what trains and of its optimiser state, and the optimiser's groups as JSON values.

    Under DDP and FSDP every process must call it, and every one gets the whole. The optimiser must have made
    a step: torch would make an empty one otherwise.
    """
    if isinstance(optimizer, ZeroOptimizer):
        parameters, moments, groups = optimizer.tensors()
        return _copies(parameters), _copies(moments), groups
    options = StateDictOptions(full_state_dict=True, ignore_frozen_params=True)
    with _none_resting(optimizer):
        found: Any = get_state_dict(module, optimizer, options=options)
    model_state, (states, groups) = found[0], (found[1]["state"], found[1]["param_groups"])
    parameters = {name: _copy(model_state[name]) for group in groups for name in group["params"]}
    moments = {
        f"{name}.{key}": _copy(value) for name, state in states.items() for key, value in state.items()
    }
    return parameters, moments, [dict(group) for group in groups]


def restore_tensors(
    module: nn.Module, optimizer: torch.optim.Optimizer | ZeroOptimizer, state: State
) -> None:
    """Put parameters and optimiser state back in place; `state` stays as it is.

    Raises TrainingError naming the parameters that are missing, unknown or of another shape.
    """
    if isinstance(module, FSDPModule):
        module.reshard()  # after a forward without a backward its own parameters lie whole
    if isinstance(optimizer, ZeroOptimizer):
        _refuse_differences(dict(optimizer.named_parameters()), state.parameters)
        optimizer.restore(state.parameters, state.optimizer, state.values["groups"])
        return
    names = _trainable(module, optimizer)
    _refuse_differences(names, state.parameters)
    states: dict[str, Any] = {}
    for key, value in state.optimizer.items():
        name, _, leaf = key.rpartition(".")
        states.setdefault(name, {})[leaf] = _copy(value)
    groups = [dict(group) for group in state.values["groups"]]
    with _none_resting(optimizer):
        set_state_dict(
            module,
            optimizer,
            model_state_dict=dict(state.parameters),
            optim_state_dict={"state": states, "param_groups": groups},
            options=StateDictOptions(full_state_dict=True, strict=False),  # the frozen base is not in it
        )
    for name, parameter in names.items():
        if name not in states:  # never had a gradient; torch has made up a state of one step for it
            optimizer.state.pop(parameter, None)


def random_state(device: torch.device) -> dict[str, Any]:
    """Python's, numpy's and torch's global random states as JSON values."""
    of_numpy: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - the caller's code may use it
    words = {"key": of_numpy["state"]["key"].tolist(), "pos": of_numpy["state"]["pos"]}
    state = {
        "python": random.getstate(),
        "numpy": of_numpy | {"state": words},
        "torch": _text(torch.get_rng_state()),
    }
    if device.type == "cuda":
        state["cuda"] = _text(torch.cuda.get_rng_state(device))
    return state


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Put the global random states back."""
    version_, internal, gauss = state["python"]
    random.setstate((version_, tuple(internal), gauss))
    np.random.set_state(state["numpy"])  # noqa: NPY002
    torch.set_rng_state(_bytes(state["torch"]))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(_bytes(state["cuda"]), device)


def surroundings(device: torch.device, processes: int) -> dict[str, Any]:
    """What the bits of a result depend on besides the run itself: a resumed run compares it."""
    accelerator = torch.cuda.get_device_name(device) if device.type == "cuda" else "none"
    return {
        "processes": processes,
        "threads": torch.get_num_threads(),
        "processor": _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "accelerator": accelerator,
        "python": platform.python_version(),
        **{package: version(package) for package in _PACKAGES},
    }


@contextmanager
def _none_resting(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """What the optimiser holds counts as trainable, also where it rests in this stage of the run."""
    resting = [p for group in optimizer.param_groups for p in group["params"] if not p.requires_grad]
    for parameter in resting:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in resting:
            parameter.requires_grad_(False)


def _trainable(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """The optimiser's parameters by name, without the prefix that DDP puts before it."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    return {
        name.removeprefix("module."): parameter
        for name, parameter in module.named_parameters()
        if id(parameter) in held
    }


def _refuse_differences(there: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    wanted = {name: tuple(parameter.shape) for name, parameter in there.items()}
    lines = [
        *(f"{name} is not in the checkpoint" for name in wanted if name not in found),
        *(f"{name} is in the checkpoint only" for name in found if name not in wanted),
        *(
            f"{name} is {tuple(found[name].shape)} in the checkpoint, {shape} here"
            for name, shape in wanted.items()
            if name in found and tuple(found[name].shape) != shape
        ),
    ]
    if lines:
        more = [f"and {len(lines) - NAMED_DIFFERENCES} more"] if len(lines) > NAMED_DIFFERENCES else []
        listed = "\n  ".join([*lines[:NAMED_DIFFERENCES], *more])
        raise TrainingError(
            f"the checkpoint is of another adapter; attach the one it was made with:\n  {listed}"
        )


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: _copy(tensor) for name, tensor in tensors.items()}


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _text(state: Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _bytes(text: str) -> Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)


def _processor() -> str:
    """The processor's model where the system tells it, its architecture elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())
