"""Which of how many processes this one is, and how they act as one run."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs

from seektune.errors import SeektuneError, TrainingError
from seektune.training.launch import check_launch

T = TypeVar("T")

SILENCE = timedelta(minutes=10)
"""How long a step waits for a process that has fallen silent; one that has ended is noticed at once."""

ALONE = timedelta(days=2)
"""How long the others wait while the first process prepares data or evaluates."""


def world() -> tuple[int, int]:
    """(rank, number of processes), as `accelerate launch` or `torchrun` set them up; (0, 1) when alone.

    Joins the process group on the first call: `data.batches` needs both numbers before training starts.
    Raises TrainingError for a way of launching that would not do what it says.
    """
    # Without cpu=True accelerate ignores torchrun's variables on a machine without an accelerator, and every
    # process would believe to be alone.
    on_cpu = not torch.accelerator.is_available()
    check_launch(os.environ, on_cpu)
    state = PartialState(cpu=on_cpu, timeout=SILENCE)
    return state.process_index, state.num_processes


def accelerator(*, some_idle: bool) -> Accelerator:
    """What prepares module and optimiser.

    `some_idle` says that parameters may stay without a gradient: a row may have no image, a stage may rest.
    """
    replicas = DistributedDataParallelKwargs(
        broadcast_buffers=False,  # a rotary table may follow the rank's own rows
        find_unused_parameters=some_idle,
    )
    # The base's dtype is the precision (no autocast), and it already lies where it shall train.
    made = Accelerator(mixed_precision="no", device_placement=False, kwargs_handlers=[replicas])
    made.sync_gradients = True  # shared in the process: an earlier run may have left it off
    return made


def leave() -> None:
    """Take leave of the other processes at the end of a run; nothing when alone."""
    if world()[1] > 1:
        PartialState().destroy_process_group()
        # gloo's threads end with the last reference to the group, and a model that DDP wrapped holds one in a
        # cycle. A thread that frees a tensor while the interpreter shuts down aborts the process: a good run
        # would end with SIGABRT.
        gc.collect()


def first_alone(action: Callable[[], T]) -> T:
    """What `action` returns in the first process, in every process; the others wait for it meanwhile.

    What it raises there is raised everywhere, so that all processes go the same way. The result travels to
    the others as a copy.
    """
    rank, size = world()
    if size == 1:
        return action()
    group = dist.new_group(backend="gloo", timeout=ALONE)  # the default one's patience is for steps
    outcome: list[Any] = [None, None]
    if rank == 0:
        try:
            outcome[0] = action()
        except BaseException as error:
            dist.broadcast_object_list([None, _told(error)], src=0, group=group)
            raise
    dist.broadcast_object_list(outcome, src=0, group=group)
    dist.destroy_process_group(group)
    result: T
    result, told = outcome
    if told is not None:
        raise told
    return result


def highest(*values: int) -> tuple[int, ...]:
    """Each of `values` as the process has it that has the highest; every process must ask."""
    if world()[1] == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.int64, device=PartialState().device)
    dist.all_reduce(tensor, dist.ReduceOp.MAX)
    return tuple(tensor.tolist())


@contextmanager
def lost_processes_named() -> Iterator[None]:
    """Within it, another process that ended or no longer answers is a TrainingError that says so."""
    try:
        yield
    except RuntimeError as error:
        if not _is_lost_process(error):
            raise
        raise TrainingError(
            "another process of this run has ended or no longer answers; its own message, if it left one, "
            "says why. Launched again, the run goes on from its last checkpoint"
        ) from error


def _told(error: BaseException) -> BaseException:
    """The error of the first process as the others raise it; it has been reported there."""
    if isinstance(error, SystemExit):
        return error
    mine = type(error) if isinstance(error, SeektuneError) else TrainingError
    told = mine(str(error) if isinstance(error, SeektuneError) else f"the first process ended: {error!r}")
    told.reported = True
    return told


def _is_lost_process(error: RuntimeError) -> bool:
    """Whether it comes from the connection between processes; gloo raises plain RuntimeErrors."""
    signs = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "Timed out waiting")
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)
