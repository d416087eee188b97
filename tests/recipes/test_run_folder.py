"""Run folders: a finished run, another run, a run that died."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from seektune.config.run import RunConfig, load_config
from seektune.config.section import validated
from seektune.errors import ConfigError
from seektune.recipes import run_folder


def config_in(folder: Path, **training: object) -> RunConfig:
    tree = {
        "base_model": "tiny/llama",
        "output_dir": str(folder / "run"),
        "data": {"train": ["a.jsonl"]},
        "training": training,
    }
    return validated(RunConfig, tree, "test")


def finish(config: RunConfig) -> None:
    (config.output_dir / "metrics.jsonl").write_text('{"step": 1}\n')
    (config.output_dir / "adapter").mkdir()
    (config.output_dir / "adapter" / "seektune.json").write_text("{}")


def test_a_new_run_records_its_configuration_and_environment(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    assert run_folder.open_run(config)
    assert load_config(config.output_dir / "run.yaml").training == config.training
    recorded = json.loads((config.output_dir / "environment.json").read_text())
    assert recorded["versions"]["torch"]


def test_a_finished_run_is_recognised(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    run_folder.open_run(config)
    finish(config)
    assert not run_folder.open_run(config)


def test_a_run_that_died_starts_again_from_nothing(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    run_folder.open_run(config)
    (config.output_dir / "metrics.jsonl").write_text('{"step": 1}\n')
    assert run_folder.open_run(config)
    assert not (config.output_dir / "metrics.jsonl").exists()


def test_another_run_in_the_folder_is_an_error_naming_the_changed_keys(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    run_folder.open_run(config)
    finish(config)
    with pytest.raises(ConfigError, match=r"(?s)--overwrite.*training\.seed: 42 → 7"):
        run_folder.open_run(config_in(tmp_path, seed=7))


def test_a_run_that_never_made_a_step_makes_way_for_another(tmp_path: Path) -> None:
    run_folder.open_run(config_in(tmp_path, seed=7))
    assert run_folder.open_run(config_in(tmp_path))
    assert run_folder.read_run(tmp_path / "run").training.seed == 42


def test_overwrite_replaces_a_run_and_keeps_what_is_not_its(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    run_folder.open_run(config)
    finish(config)
    (config.output_dir / "notes.txt").write_text("mine")
    assert run_folder.open_run(config_in(tmp_path, seed=7), overwrite=True)
    assert (config.output_dir / "notes.txt").read_text() == "mine"
    assert not run_folder.is_finished(config.output_dir)


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        run_folder.read_run(tmp_path)


def test_equal_configurations_have_no_changed_keys(tmp_path: Path) -> None:
    assert run_folder.changed_keys(config_in(tmp_path), config_in(tmp_path)) == []


def test_a_package_that_is_missing_has_no_version() -> None:
    assert run_folder.installed("no-such-package-anywhere") is None
