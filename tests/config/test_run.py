"""Configuration: coercion, overrides, and errors that name the key and the fix."""

from __future__ import annotations

import contextlib
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.config.run import changed_keys, dump_config, load_config
from seektune.errors import ConfigError

MINIMAL = """
base_model: tiny/llama
output_dir: runs/x
data: {train: [train.jsonl]}
"""


def write(folder: Path, text: str = MINIMAL) -> Path:
    path = folder / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_example_of_the_design_is_valid(tmp_path: Path) -> None:
    (tmp_path / "experts.json").write_text('{"experts": {"1": [0, 3]}}')
    config = load_config(
        write(
            tmp_path,
            f"""
base_model: deepseek-ai/DeepSeek-V2-Lite
output_dir: runs/medical
data:
  train: [{{path: medqa/train.jsonl}}]
  eval: {{fraction: 0.05}}
  prompt_prefix: "[MEDICAL] 问题:"
  max_length: 2048
lora:
  r: 32
  lora_alpha: 64
  target_modules: [attention, routed]
  exclude_modules: []
  experts: {tmp_path}/experts.json
  lora_dropout: 0.2
  bias: none
training:
  objective: sft
  num_train_epochs: 3
  learning_rate: 5e-5
  per_device_train_batch_size: 2
  gradient_accumulation_steps: 8
  max_grad_norm: 1.0
  bf16: true
  logging_steps: 10
  save_steps: 500
  eval_steps: 500
  report_to: none
""",
        )
    )
    assert config.lora.experts == {1: (0, 3)}
    assert config.compute_dtype == "bfloat16"


def test_a_learning_rate_that_yaml_reads_as_a_string_is_a_number(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, MINIMAL + "training: {learning_rate: 5e-5}"))
    assert config.training.learning_rate == 5e-5


def test_an_override_wins_over_the_file_and_coerces(tmp_path: Path) -> None:
    config = load_config(write(tmp_path), ["training.learning_rate=1e-4", "lora.r=32", "training.bf16=true"])
    assert (config.training.learning_rate, config.lora.r, config.training.bf16) == (1e-4, 32, True)


def test_an_override_can_name_a_list(tmp_path: Path) -> None:
    config = load_config(write(tmp_path), ["lora.target_modules=[attention, dense]", "data.train=[a.jsonl]"])
    assert config.lora.target_modules == ("attention", "dense")
    assert [source.path for source in config.data.train] == ["a.jsonl"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.lerning_rate=1", "did you mean learning_rate?"),
        ("lora.rank=8", "did you mean r?"),
        ("lora.nothing=8", "known keys: r, lora_alpha"),
        ("training.lr=1", "did you mean learning_rate?"),
        ("training.batch_size=8", "did you mean per_device_train_batch_size?"),
        ("max_steps=5", "max_steps: unknown key; did you mean training.max_steps?"),
        ("epochs=5", "did you mean training.num_train_epochs?"),
        ("trainning.seed=1", "did you mean training?"),
        ("lora.bias=all", "lora.bias"),
        ("lora.target_modules=[]", "is empty"),
        ("training.learning_rate=fast", "training.learning_rate"),
        ("training.learning_rate=.nan", "training.learning_rate"),
        ("training.seed", "is not key=value"),
        ("base_model.name=x", "base_model is not a section"),
        ("data.train=[{path: a.jsonl, fromat: qa}]", "did you mean format?"),
        ("data.eval={fraction: 0.1, path: e.jsonl}", "give one of"),
        ("lora.experts=nowhere.json", "cannot read the expert selection"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_fix(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(write(tmp_path), [override])


def test_every_problem_is_listed_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path), ["lora.r=0", "training.optim=sgd", "data.max_lenght=3"])
    assert all(place in str(caught.value) for place in ("lora.r", "training.optim", "data.max_lenght"))


def test_two_precisions_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exclude each other"):
        load_config(write(tmp_path), ["training.bf16=true", "training.fp16=true"])
    with pytest.raises(ConfigError, match="contradicts"):
        load_config(write(tmp_path), ["training.bf16=true", "dtype=float32"])


def test_a_missing_file_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="seektune init"):
        load_config(tmp_path / "none.yaml")


def test_a_key_that_is_given_twice_is_named_with_its_lines(tmp_path: Path) -> None:
    text = "base_model: tiny/llama\ntraining:\n  seed: 1\n  max_steps: 2\n  seed: 3\n"
    with pytest.raises(ConfigError, match="seed is given twice, in lines 3 and 5"):
        load_config(write(tmp_path, text))
    with pytest.raises(ConfigError, match="path is given twice"):
        load_config(write(tmp_path), ["data.eval={path: a.jsonl, path: b.jsonl}"])


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "just words"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError):
        load_config(write(tmp_path, text))


def test_the_dumped_configuration_is_a_valid_input_with_absolute_paths(tmp_path: Path) -> None:
    config = load_config(write(tmp_path), ["data.eval.path=held.jsonl", "lora.experts={1: [0, 2]}"])
    again = load_config(write(tmp_path, dump_config(config)))
    assert again.output_dir.is_absolute()
    assert Path(str(again.data.train[0].path)).is_absolute()
    assert (again.lora, again.training) == (config.lora, config.training)
    assert dump_config(again) == dump_config(config)


@given(st.text(max_size=40))
def test_no_override_text_escapes_as_another_exception(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(ConfigError):
        load_config(write(Path(folder)), [text])


def test_what_is_written_of_a_run_in_stages_is_valid_and_the_same(tmp_path: Path) -> None:
    stages = (
        "stages: [{layers: [0, 0.5], learning_rate: 1e-3, max_steps: 2}, {learning_rate: 1e-4, max_steps: 3}]"
    )
    config = load_config(write(tmp_path, MINIMAL + f"training: {{{stages}}}\n"))
    written = dump_config(config)
    assert "num_train_epochs: null" in written
    assert "num_train_epochs: 3" not in written
    again = load_config(write(tmp_path, written))
    assert again.training.stages == config.training.stages
    assert dump_config(again) == written


def test_what_makes_another_run_is_listed_and_what_may_change_on_the_way_is_not(tmp_path: Path) -> None:
    before = load_config(write(tmp_path))
    assert changed_keys(before, load_config(write(tmp_path))) == []
    free = ["training.health.non_finite=skip", "training.logging_steps=1", "training.save_steps=7"]
    assert changed_keys(before, load_config(write(tmp_path), free)) == []
    after = load_config(write(tmp_path), [*free, "training.seed=7", "lora.r=99"])
    assert changed_keys(before, after) == ["lora.r: 16 → 99", "training.seed: 42 → 7"]
