"""`seektune init`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from seektune.config.run import load_config
from seektune.config.training import TrainingConfig
from seektune.errors import ConfigError
from seektune.recipes import init


def test_what_init_writes_is_a_valid_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = load_config(init.run("medical", base_model="modelscope:deepseek/x", data="数据 #1.jsonl"))
    assert config.base_model == "modelscope:deepseek/x"
    assert config.data.train[0].path == "数据 #1.jsonl"
    assert config.output_dir == Path("runs/medical")


def test_every_training_key_that_is_supported_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = init.run("medical").read_text(encoding="utf-8")
    unshown = {"objective", "max_steps", "warmup_steps", "fp16"}
    assert [key for key in TrainingConfig.model_fields if key not in unshown and f" {key}:" not in text] == []


def test_what_is_commented_out_is_valid_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = init.run("medical")
    path.write_text(re.sub(r"^  # (\w+: )", r"  \1", path.read_text(encoding="utf-8"), flags=re.MULTILINE))
    data = load_config(path).data
    assert data.target is not None
    assert data.pack_tokens == 4096
    assert (data.cleaning.pii, data.dedup.near) == ("mask", False)


def test_an_existing_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    init.run("medical.yaml")
    with pytest.raises(ConfigError, match="exists already"):
        init.run("medical")
