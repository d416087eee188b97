"""`seektune estimate`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from rich.console import Console
from tiny_runs import tiny_config, write_rows

from seektune.config.run import RunConfig
from seektune.data.prepare import Prepared, prepare
from seektune.models.chat import load_chat
from seektune.models.outline import architecture
from seektune.recipes import estimate
from seektune.recipes.fit import ragged
from seektune.runlog import read


@pytest.fixture(autouse=True)
def _no_second_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process needs by itself is measured in tests/training/test_hardware.py."""
    monkeypatch.setattr(estimate, "process_bytes", lambda: 400_000_000)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    write_rows(tmp_path / "rows.jsonl")
    return tiny_config(tmp_path)


def prepared(config: RunConfig) -> Prepared:
    return prepare(config.data, load_chat(config.base_model), config.output_dir / "data", seed=42)


def test_the_page_has_every_part_and_the_data_is_where_train_looks_for_it(config: RunConfig) -> None:
    page = io.StringIO()
    found = estimate.run(config, console=Console(file=page, width=200))
    text = page.getvalue()
    for part in ("143,792 parameters", "routed", "process", "peak", "fits 12 GB yes", "H100 SXM", "guesses"):
        assert part in text
    assert "not prepared" not in text
    assert (config.output_dir / "data" / "report.json").exists()
    assert sum(found["cpu"].trainable.values()) == sum(found["cuda"].trainable.values()) > 0


def test_json_has_both_devices(config: RunConfig) -> None:
    page = io.StringIO()
    estimate.run(config, as_json=True, console=Console(file=page, width=200))
    found = json.loads(page.getvalue())
    assert found["cuda"]["total_parameters"] == found["cpu"]["total_parameters"] == 143_792
    assert found["assumed"] == ""


def test_steps_and_tokens_are_those_of_the_run(finished: Path) -> None:
    config = tiny_config(finished.parent, training={"num_train_epochs": 2, "per_device_train_batch_size": 3})
    data = prepared(config)
    plan = estimate.planned(config, architecture(config.base_model), data)
    assert plan.tokens == 2 * data.train.lengths.sum()
    assert plan.steps == 2 * -(-len(data.train) // 3)
    rows = ragged(config, data.train)
    met = [batch.input_ids.numel() for epoch in (0, 1) for batch in rows.epoch(epoch)]
    assert plan.load.tokens == max(met) <= sum(sorted(data.train.lengths)[-3:])
    metrics = read(finished / "metrics.jsonl")
    three_steps = estimate.planned(tiny_config(finished.parent), architecture(config.base_model), data)
    assert three_steps.steps == len(metrics)
    assert three_steps.tokens == pytest.approx(sum(step.tokens for step in metrics), rel=0.1)


def test_packed_rows_stay_within_their_budget(config: RunConfig) -> None:
    packed = config.model_copy(update={"data": config.data.model_copy(update={"pack_tokens": 256})})
    plan = estimate.planned(packed, architecture(packed.base_model), prepared(packed))
    assert plan.load.longest < plan.load.tokens <= 256


def test_without_a_tokenizer_the_worst_row_is_assumed_and_said(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    large = config.model_copy(update={"base_model": "deepseek-ai/DeepSeek-V2-Lite"})
    page = io.StringIO()
    found = estimate.run(large, console=Console(file=page, width=200))
    assert "every sample has 2,048 tokens and steps are 3:" in page.getvalue()
    assert found["cuda"].tokens == 3 * 8 * 2048
    assert not (config.output_dir / "data").exists()


def test_a_configuration_without_anything_beside_it_is_enough(config: RunConfig, tmp_path: Path) -> None:
    described = architecture("tiny/deepseek_v3").config
    (tmp_path / "config.json").write_text(json.dumps(described))
    for source in (tmp_path, tmp_path / "config.json"):
        alone = config.model_copy(update={"base_model": str(source)})
        found = estimate.run(alone, as_json=True, console=Console(file=io.StringIO()))
        assert sum(found["cuda"].parameters.values()) == 143_792


def test_the_precision_is_the_one_that_train_would_load(config: RunConfig) -> None:
    described = architecture("deepseek-ai/DeepSeek-V2-Lite")
    assert estimate.planned(config, described, None).load.dtype == torch.bfloat16
    single = config.model_copy(update={"dtype": "float32"})
    assert estimate.planned(single, described, None).load.dtype == torch.float32


def test_a_prediction_stands_beside_what_was_measured(config: RunConfig) -> None:
    found = estimate.beside(config, prepared(config), process=400_000_000)
    assert found["error"] == pytest.approx(found["predicted_bytes"] / found["measured_bytes"] - 1)
    assert sum(found["parts"].values()) == found["predicted_bytes"] > 400_000_000
