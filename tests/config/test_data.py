"""The `data` section: sources by path or by hub id, and what is on by default."""

from __future__ import annotations

import pytest

from seektune.config.data import DataConfig, EvalConfig, SourceConfig
from seektune.config.section import validated
from seektune.errors import ConfigError


def test_a_bare_path_is_a_source() -> None:
    config = validated(DataConfig, {"train": "rows.jsonl", "target": "asked.jsonl"}, "data")
    assert [source.path for source in config.train] == ["rows.jsonl"]
    assert config.target == SourceConfig(path="asked.jsonl")


@pytest.mark.parametrize("source", [{}, {"path": "a", "hub": "b/c"}])
def test_a_source_has_either_a_path_or_a_hub_id(source: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="either path or hub"):
        validated(SourceConfig, source, "data.train")


def test_held_out_rows_come_from_a_fraction_or_from_a_source() -> None:
    assert EvalConfig(fraction=0.1).source is None
    source = EvalConfig(path="held.csv", format="qa", columns={"question": "q"}).source
    assert source == SourceConfig(path="held.csv", format="qa", columns={"question": "q"})
    with pytest.raises(ConfigError, match="give one of"):
        validated(EvalConfig, {"fraction": 0.1, "hub": "a/b"}, "data.eval")


def test_only_repairs_are_on_by_default() -> None:
    on = {
        name for name, value in DataConfig(train=("x.jsonl",)).cleaning.model_dump().items() if value is True
    }
    assert on == {"control_characters", "whitespace", "mojibake"}
