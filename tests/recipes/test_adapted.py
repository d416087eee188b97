"""A base with the adapters a command names."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from engine_runs import far_folder
from tiny_runs import tiny_config

from seektune.adapters.attach import active_adapter, adapters
from seektune.config.run import dump_config
from seektune.errors import ConfigError
from seektune.models.load import load_model
from seektune.recipes.adapted import adapter_name, open_adapted, open_resident, opening, trained_with
from seektune.types import Message


def test_a_run_folder_brings_its_base_and_its_adapter(finished: Path) -> None:
    loaded = open_adapted(str(finished))
    assert adapters(loaded) == ("run",)
    assert active_adapter(loaded) == "run"


def test_a_base_takes_the_adapters_that_are_named_and_the_last_is_active(
    finished: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(finished / "adapter", tmp_path / "other.v2")
    loaded = open_adapted("tiny/deepseek_v3", [finished, other])
    assert adapters(loaded) == ("run", "other_v2")
    assert active_adapter(loaded) == "other_v2"


def test_two_adapters_of_one_name_are_an_error(finished: Path) -> None:
    with pytest.raises(ConfigError, match="two adapters are called run"):
        open_adapted(str(finished), [finished])


def test_a_base_alone_has_no_adapter() -> None:
    assert adapters(open_adapted("tiny/llama")) == ()


def test_a_run_folder_also_knows_how_its_questions_began(finished: Path, tmp_path: Path) -> None:
    prefixed = shutil.copytree(finished, tmp_path / "prefixed")
    config = prefixed / "run.yaml"
    config.write_text(config.read_text().replace("prompt_prefix: ''", "prompt_prefix: 'Case: '"))
    config.write_text(config.read_text().replace("system_prompt: ''", "system_prompt: 'Be brief.'"))
    assert opening(str(prefixed)) == ([Message("system", "Be brief.")], "Case: ")
    assert opening("tiny/llama") == opening(str(finished)) == ([], "")


def test_an_adapter_is_named_after_its_run() -> None:
    assert adapter_name(Path("runs/medical/adapter")) == "medical"
    assert adapter_name(Path("adapters/legal")) == "legal"


def test_adapters_can_be_resident_together_whatever_their_rank(finished: Path, tmp_path: Path) -> None:
    wide = far_folder("deepseek_v3", tmp_path / "wide", r=80)
    resident = open_resident("tiny/deepseek_v3", [finished, wide])
    assert [*resident.adapters] == ["run", "wide"]
    assert resident.slots is not None
    assert set(resident.slots.keys) == {staged.key for staged in resident.adapters.values()}
    assert open_resident("tiny/llama").slots is None
    with pytest.raises(ConfigError, match="two adapters are called run"):
        open_resident(str(finished), [finished])


def test_an_adapter_that_is_called_as_the_base_is_an_error(tmp_path: Path) -> None:
    base = load_model("tiny/llama")
    base.model.save_pretrained(tmp_path / "clinic")
    base.tokenizer.save_pretrained(tmp_path / "clinic")
    folder = far_folder("llama", tmp_path / "adapters" / "clinic")
    with pytest.raises(ConfigError, match="an adapter is called clinic, as the base is: rename its folder"):
        open_resident(str(tmp_path / "clinic"), [folder])


def test_a_run_says_what_its_callers_have_to_send(tmp_path: Path):
    assert trained_with("tiny/llama") == ""
    data = {"train": ["x"], "system_prompt": "You sort questions.", "prompt_prefix": "Question: "}
    (tmp_path / "run.yaml").write_text(dump_config(tiny_config(tmp_path, "run", data=data)), encoding="utf-8")
    text = trained_with(str(tmp_path))
    assert f"{tmp_path} wants the system prompt of its training first: 'You sort questions.'" in text
    assert "wants each question as in its training: 'Question: ' before it" in text
