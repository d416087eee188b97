"""Run folders: a finished run, another run, a run that died."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seektune.config.run import RunConfig, load_config
from seektune.config.section import validated
from seektune.errors import ConfigError, TrainingError
from seektune.recipes import run_folder
from seektune.runlog import append
from seektune.training.checkpoint import write
from seektune.training.state import State
from seektune.types import StepMetrics


def config_in(folder: Path, **training: object) -> RunConfig:
    tree = {
        "base_model": "tiny/llama",
        "output_dir": str(folder / "run"),
        "data": {"train": ["a.jsonl"]},
        "training": training,
    }
    return validated(RunConfig, tree, "test")


def started(config: RunConfig, **options: Any) -> run_folder.Opened:
    """What a run finds, and begins with where it is not finished."""
    found = run_folder.open_run(config, **options)
    if not found.finished:
        run_folder.begin_run(config, found.state)
    return found


def finish(config: RunConfig) -> None:
    (config.output_dir / "metrics.jsonl").write_text('{"step": 1}\n')
    (config.output_dir / "adapter").mkdir()
    (config.output_dir / "adapter" / "seektune.json").write_text("{}")


def test_a_new_run_records_its_configuration_and_environment(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    assert started(config) == run_folder.Opened()
    assert load_config(config.output_dir / "run.yaml").training == config.training
    recorded = json.loads((config.output_dir / "environment.json").read_text())
    assert recorded["versions"]["torch"]


def test_a_finished_run_is_recognised(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    started(config)
    finish(config)
    for resume in ("auto", "never"):
        assert started(config, resume=resume) == run_folder.Opened(finished=True)


def begun(config: RunConfig, *checkpoints: int) -> Path:
    """A run that died after five steps; its checkpoints' folder."""
    started(config)
    for step in range(1, 6):
        append(config.output_dir / "metrics.jsonl", StepMetrics(step, step / 5, 2.0, 1e-4, 1.0, 9, 0.1))
    for step in checkpoints:
        write(State({}, {}, {"step": step}), config.output_dir / "checkpoints")
    return config.output_dir / "checkpoints"


def steps_logged(config: RunConfig) -> int:
    return (config.output_dir / "metrics.jsonl").read_text().count("\n")


def test_a_run_that_died_goes_on_from_its_newest_checkpoint(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    root = begun(config, 2, 4)
    created = (config.output_dir / "environment.json").read_bytes()
    opened = started(config)
    assert opened.state is not None
    assert (opened.state.step, opened.passed, steps_logged(config)) == (4, (), 4)
    (root / "step-4" / "state.json").write_text("{}")
    opened = started(config)
    assert opened.state is not None
    assert (opened.state.step, steps_logged(config)) == (2, 2)
    assert [line.startswith(str(root / "step-4")) for line in opened.passed] == [True]
    assert (config.output_dir / "environment.json").read_bytes() == created


def test_a_named_checkpoint_is_resumed_from_and_no_other_folder(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    root = begun(config, 2, 4)
    with pytest.raises(ConfigError, match=r"is no checkpoint of this run; it has: .*step-2, .*step-4"):
        started(config, resume=str(tmp_path / "step-2"))
    with pytest.raises(TrainingError, match=r"step-3 cannot be resumed from: manifest\.json"):
        started(config, resume=str(root / "step-3"))
    opened = started(config, resume=str(root / "step-2"))
    assert opened.state is not None
    assert (opened.state.step, steps_logged(config)) == (2, 2)
    with pytest.raises(ConfigError, match="holds no run that could go on"):
        started(config_in(tmp_path / "new"), resume=str(root / "step-2"))


@pytest.mark.parametrize(("checkpoints", "resume"), [((), "auto"), ((2, 4), "never")])
def test_without_a_checkpoint_or_by_request_a_run_that_died_starts_again(
    checkpoints: tuple[int, ...], resume: str, tmp_path: Path
) -> None:
    config = config_in(tmp_path)
    root = begun(config, *checkpoints)
    assert started(config, resume=resume) == run_folder.Opened()
    assert not root.exists()
    assert not (config.output_dir / "metrics.jsonl").exists()


def test_checkpoints_of_which_none_can_be_used_are_not_thrown_away(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    root = begun(config, 2, 4)
    for step in (2, 4):
        (root / f"step-{step}" / "state.json").unlink()
    with pytest.raises(TrainingError, match=r"(?s)--resume never starts again:.*step-4 .*step-2 "):
        started(config)
    assert len(list(root.iterdir())) == 2


def test_another_run_in_the_folder_is_an_error_naming_the_changed_keys(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    started(config)
    finish(config)
    with pytest.raises(ConfigError, match=r"(?s)--overwrite.*training\.seed: 42 → 7"):
        started(config_in(tmp_path, seed=7))


def test_a_run_that_never_made_a_step_makes_way_for_another(tmp_path: Path) -> None:
    started(config_in(tmp_path, seed=7))
    assert started(config_in(tmp_path)) == run_folder.Opened()
    assert run_folder.read_run(tmp_path / "run").training.seed == 42


def test_overwrite_replaces_a_run_and_keeps_what_is_not_its(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    started(config)
    finish(config)
    (config.output_dir / "notes.txt").write_text("mine")
    assert started(config_in(tmp_path, seed=7), overwrite=True) == run_folder.Opened()
    assert (config.output_dir / "notes.txt").read_text() == "mine"
    assert not run_folder.is_finished(config.output_dir)


@pytest.mark.parametrize("options", [{"overwrite": True}, {"resume": "never"}, {}])
def test_looking_changes_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    config = config_in(tmp_path)
    begun(config, 2, 4)
    before = {path: path.read_bytes() for path in config.output_dir.rglob("*") if path.is_file()}
    run_folder.open_run(config, **options)
    assert {path: path.read_bytes() for path in config.output_dir.rglob("*") if path.is_file()} == before
    run_folder.open_run(config_in(tmp_path / "new"), **options)
    assert not (tmp_path / "new").exists()


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        run_folder.read_run(tmp_path)


def test_a_run_without_its_adapter_is_not_finished(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    started(config)
    with pytest.raises(ConfigError, match=r"has no adapter yet: finish it with `seektune train .*run\.yaml`"):
        run_folder.read_finished(config.output_dir)
    finish(config)
    assert run_folder.read_finished(config.output_dir).base_model == config.base_model


def test_a_package_that_is_missing_has_no_version() -> None:
    assert run_folder.installed("no-such-package-anywhere") is None
