"""The launch files are read by accelerate's own parser, and pass our own checks."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

from seektune.training import launch

FOLDER = Path(__file__).parents[2] / "examples" / "launch"
FILES = sorted(FOLDER.glob("*.yaml"))
KINDS = {
    "ddp": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "zero2": DistributedType.DEEPSPEED,
}


def arguments(path: Path, *more: str) -> argparse.Namespace:
    """What `accelerate launch` makes of the file and of the command line of the guide."""
    line = ["--config_file", str(path), *more, "-m", "seektune", "train", "x.yaml"]
    args, _, _ = _validate_launch_command(launch_command_parser().parse_args(line))
    assert isinstance(args, argparse.Namespace)
    return args


def test_there_is_one_for_each_kind_and_number_of_machines() -> None:
    assert {path.stem for path in FILES} == {f"{kind}_{n}x8" for kind in KINDS for n in (1, 2)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerates_parser_knows_every_key(path: Path) -> None:
    config = load_config_from_file(str(path))  # an unknown key at the top is its own error
    assert config.distributed_type is KINDS[path.stem.split("_")[0]]
    machines = int(path.stem.split("_")[1][0])
    assert (config.num_machines, config.num_processes) == (machines, 8 * machines)
    known = vars(launch_command_parser().parse_args(["x.py"]))
    for section in (config.fsdp_config, config.deepspeed_config):
        assert [key for key in section if key not in known] == []  # here accelerate would say nothing


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_the_launcher_makes_of_it_passes_our_checks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "find_spec", lambda name: object())  # deepspeed is not needed to read on
    args = arguments(path, "--main_process_port", "0", "--machine_rank", "1")
    if args.use_deepspeed:
        args.deepspeed_fields_from_accelerate_config = ""
        command, environment = prepare_deepspeed_cmd_env(args)
        assert command is None  # torchrun's launcher, on each machine
        assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "2"
    else:
        environment = prepare_multi_gpu_env(args)
    assert environment.get("ACCELERATE_MIXED_PRECISION") == "no"
    assert (environment.get("ACCELERATE_USE_FSDP") == "true") is args.use_fsdp
    launch.check_launch(environment, on_cpu=False)
    if args.use_fsdp:
        assert environment["FSDP_VERSION"] == "2"
        assert environment["FSDP_RESHARD_AFTER_FORWARD"] == "true"
        with pytest.raises(launch.TrainingError, match="silently train with DDP"):
            launch.check_launch(environment, on_cpu=True)


def test_the_readme_names_every_file() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in FILES if path.name not in readme] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_second_machine_differs_by_its_rank_alone(path: Path) -> None:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    needed = {"machine_rank", "main_process_ip", "main_process_port"}
    assert needed & content.keys() == (needed if content["num_machines"] > 1 else set())
