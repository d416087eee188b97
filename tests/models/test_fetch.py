from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from huggingface_hub import constants

from seektune.errors import ModelError, OfflineError
from seektune.models.fetch import hub_cache, lasting_name, local_folder


def test_a_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "org").mkdir()
    assert local_folder(str(tmp_path)) == tmp_path
    assert local_folder("~/org") == tmp_path / "org"


def test_a_folder_wins_over_a_hub_id_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert local_folder("org/name") == Path("org/name")


def test_a_lasting_name_is_a_folder_s_whole_path_and_a_hub_id_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    assert lasting_name("base") == str(tmp_path / "base")
    assert lasting_name("org/name") == "org/name"


@pytest.mark.parametrize("source", ["name", "/no/such/folder", "./org/name", "../name", "a/b/c", ""])
def test_what_cannot_be_a_hub_id_is_a_missing_folder(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="base_model is a folder, tiny/<name>, a hub id"):
        local_folder(source)


def test_offline_the_error_names_the_choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        OfflineError, match=r"cannot fetch org/name.*folder, tiny/<name>.*HF_ENDPOINT.*modelscope:org"
    ):
        local_folder("org/name")


def test_an_unreachable_endpoint_is_the_same_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    with pytest.raises(OfflineError, match=r"cannot fetch org/name from http://127\.0\.0\.1:9"):
        local_folder("org/name")


def test_modelscope_without_its_client_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope", None)
    with pytest.raises(ModelError, match="pip install modelscope"):
        local_folder("modelscope:org/name")


def test_modelscope_fetches_no_code_and_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = ModuleType("modelscope")
    asked: list[str] = []

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        asked.extend([name, *allow_patterns])
        return str(tmp_path)

    client.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "modelscope", client)
    assert local_folder("modelscope:org/name") == tmp_path
    assert asked[0] == "org/name"
    assert not [pattern for pattern in asked if pattern.endswith((".py", ".bin", ".pt", "*"))]


def test_modelscope_offline_is_an_offline_error(monkeypatch: pytest.MonkeyPatch) -> None:
    client = ModuleType("modelscope")

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        raise ConnectionError("no route")

    client.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "modelscope", client)
    with pytest.raises(OfflineError, match="cannot fetch org/name from ModelScope"):
        local_folder("modelscope:org/name")


def test_models_of_a_hub_are_kept_where_the_hub_keeps_them() -> None:
    assert hub_cache() == Path(constants.HF_HUB_CACHE)
