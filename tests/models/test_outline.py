"""Models as their config.json describes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from seektune.errors import ModelError, OfflineError
from seektune.models.load import load_model
from seektune.models.outline import ARCHITECTURES, Architecture, architecture, outline, shipped
from seektune.models.tiny import TINY

FILES = sorted(ARCHITECTURES.glob("*.json"))


@pytest.mark.parametrize("name", TINY)
def test_an_outline_has_the_modules_and_shapes_of_the_loaded_model_and_holds_nothing(name: str) -> None:
    outlined = outline(architecture(f"tiny/{name}"))
    loaded = load_model(f"tiny/{name}")
    shapes = {key: tuple(parameter.shape) for key, parameter in outlined.model.named_parameters()}
    assert shapes == {key: tuple(parameter.shape) for key, parameter in loaded.model.named_parameters()}
    assert outlined.family == loaded.family
    assert {tensor.device.type for tensor in outlined.model.state_dict().values()} == {"meta"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_architecture_has_the_published_number_of_parameters(path: Path) -> None:
    file = json.loads(path.read_text(encoding="utf-8"))
    outlined = outline(architecture(file["ids"][0]))
    total = sum(parameter.numel() for parameter in outlined.model.parameters())
    assert total == pytest.approx(file["published_parameters"], rel=0.003)
    assert "arXiv" in file["source"]


def test_shipped_ids_need_no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert len(shipped()) == len({name for path in FILES for name in json.loads(path.read_text())["ids"]})
    assert architecture("modelscope:deepseek-ai/DeepSeek-V3").quantised == "fp8"
    with pytest.raises(OfflineError, match="cannot fetch org/unknown"):
        architecture("org/unknown")


def test_a_folder_or_its_config_alone_is_enough(tmp_path: Path) -> None:
    config: dict[str, Any] = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    for source in (tmp_path, tmp_path / "config.json"):
        described = architecture(source)
        assert (described.stored, described.quantised) == ("bfloat16", None)
        assert len(outline(described).model.get_decoder().layers) == 2


def test_a_folder_of_a_shipped_name_is_read_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("deepseek-ai/DeepSeek-V3")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 32}))
    assert architecture("deepseek-ai/DeepSeek-V3").config["hidden_size"] == 32


def test_what_describes_no_model_is_a_named_error() -> None:
    with pytest.raises(ModelError, match="'gpt2' is not supported"):
        outline(Architecture("here", {"model_type": "gpt2"}))
    with pytest.raises(ModelError, match="the configuration of here describes no model"):
        outline(Architecture("here", {"model_type": "llama", "hidden_size": "wide"}))
