"""What `accelerate launch` may ask for: checked before anything is loaded, from its environment alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from seektune.errors import TrainingError


def check_launch(environ: Mapping[str, str], on_cpu: bool) -> None:
    """Raise TrainingError for a launch that would silently do something else, or is not known to be exact.

    `environ` is what the launcher set; `on_cpu` says that the machine has no accelerator.
    """
    problems = [*_problems(environ, on_cpu)]
    if problems:
        raise TrainingError("; ".join(problems))


def _problems(environ: Mapping[str, str], on_cpu: bool) -> Iterator[str]:
    if _is_on(environ, "ACCELERATE_USE_FSDP"):
        yield from _fsdp_problems(environ, on_cpu)
    if _is_on(environ, "ACCELERATE_USE_DEEPSPEED"):
        yield from _deepspeed_problems(environ, on_cpu)
    for name, what in (("MEGATRON_LM", "Megatron-LM"), ("PARALLELISM_CONFIG", "parallelism_config")):
        if _is_on(environ, f"ACCELERATE_USE_{name}"):
            yield f"{what} is not supported: launch with DDP, FSDP2 or DeepSpeed ZeRO-2 (examples/launch)"
    alone = not any(key in environ for key in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"))
    if _is_on(environ, "ACCELERATE_USE_CPU") and "MASTER_ADDR" in environ and alone:
        yield (
            "`accelerate launch --cpu --num_processes N` starts one process, not N, without mpirun: say "
            "--multi_gpu instead of --cpu, which on a machine without GPUs starts N processes on its CPUs"
        )


def _fsdp_problems(environ: Mapping[str, str], on_cpu: bool) -> Iterator[str]:
    if on_cpu:
        yield (
            "FSDP is configured, but there is no GPU, where accelerate would silently train with DDP: launch "
            "with `distributed_type: MULTI_GPU` (examples/launch/ddp_1x8.yaml), which trains the same"
        )
    if environ.get("FSDP_VERSION", "1") != "2":
        yield "FSDP1 cannot shard a frozen base with trained adapters in it: set `fsdp_version: 2`"
    if environ.get("FSDP_AUTO_WRAP_POLICY", "NO_WRAP") != "TRANSFORMER_BASED_WRAP":
        yield "set `fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP`: else the whole model is gathered at once"
    if _is_on(environ, "FSDP_CPU_RAM_EFFICIENT_LOADING"):
        yield (
            "set `fsdp_cpu_ram_efficient_loading: false` (true is accelerate's default): it leaves the model "
            "of every process but the first without weights, so that there is nothing to prove unchanged"
        )
    if _is_on(environ, "FSDP_ACTIVATION_CHECKPOINTING"):
        yield (
            "set `fsdp_activation_checkpointing: false`: it does not restore random states, so dropout would "
            "give wrong gradients; `training.gradient_checkpointing: true` does the same exactly"
        )


def _deepspeed_problems(environ: Mapping[str, str], on_cpu: bool) -> Iterator[str]:
    if find_spec("deepspeed") is None:
        yield "DeepSpeed is configured, but the package `deepspeed` is not installed: pip install deepspeed"
    if on_cpu:
        yield (
            "DeepSpeed is configured, but there is no GPU, where accelerate would start every process on its "
            "own: launch with `distributed_type: MULTI_GPU` (examples/launch/ddp_1x8.yaml)"
        )
    if environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2") == "3":
        yield (
            "DeepSpeed ZeRO-3 is refused: it gathers weights when a module is called, and adapted modules "
            "read those of their children without calling them; FSDP2 (examples/launch) shards the base"
        )


def _is_on(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "").lower() in ("true", "1", "yes", "y", "t", "on")
