"""Entries of LLaMA-Factory's dataset_info.json become sources; what they ask for and we lack is an error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from seektune.config.data import SourceConfig
from seektune.data.formats.convert import converter, detect, unread
from seektune.data.formats.dataset_info import expand
from seektune.data.records import Record
from seektune.data.sources.files import read
from seektune.errors import DataError

DATA = Path(__file__).parents[3].parent / "shared" / "data" / "formats"


@pytest.fixture
def info(tmp_path: Path) -> Any:
    """Writes one entry and returns the source that names it."""

    def write(entry: dict[str, Any], **chosen: Any) -> SourceConfig:
        path = tmp_path / "dataset_info.json"
        path.write_text(json.dumps({"mine": entry, "other": {}}), encoding="utf-8")
        return SourceConfig(path=str(path), dataset="mine", **chosen)

    return write


def test_other_sources_stay_as_they_are() -> None:
    for source in (SourceConfig(path="rows.jsonl"), SourceConfig(hub="org/name")):
        assert expand(source) is source


def test_a_file_stands_beside_its_description(info: Any, tmp_path: Path) -> None:
    source = expand(info({"file_name": "rows.json"}))
    assert (source.path, source.dataset, source.format) == (str(tmp_path / "rows.json"), None, "alpaca")
    folder = SourceConfig(path=str(tmp_path), dataset="mine")
    assert expand(folder) == source


@pytest.mark.parametrize(
    ("entry", "name"),
    [
        ({}, "alpaca"),
        ({"formatting": "sharegpt"}, "sharegpt"),
        ({"formatting": "openai"}, "messages"),
        ({"ranking": True}, "preference"),
        ({"ranking": True, "formatting": "sharegpt"}, "preference"),
        ({"columns": {"prompt": "prompt", "response": "completion", "kto_tag": "label"}}, "kto"),
        ({"formatting": "sharegpt", "columns": {"messages": "m", "kto_tag": "label"}}, "kto"),
        ({"columns": {"prompt": "text"}}, "text"),
    ],
)
def test_the_format_follows_formatting_ranking_and_columns(info: Any, entry: Any, name: str) -> None:
    assert expand(info(entry | {"file_name": "rows.json"})).format == name


def test_columns_and_tags_are_taken_over_and_what_columns_leave_out_is_not_read(info: Any) -> None:
    entry = {
        "file_name": "rows.json",
        "formatting": "sharegpt",
        "columns": {"messages": "dialogue", "images": "pictures"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    }
    source = expand(info(entry))
    assert source.columns == {"messages": "dialogue", "images": "pictures", "system": "", "tools": ""}
    assert source.tags == entry["tags"]
    firefly = {"file_name": "rows.json", "columns": {"prompt": "input", "response": "target"}}
    source = expand(info(firefly))
    row = converter(source, source.format)(Record("f", 1, {"input": "q", "target": "a", "system": "unread"}))
    assert [message.content for message in row.messages] == ["q", "a"]


def test_openai_tags_keep_openais_names_where_they_are_not_given(info: Any) -> None:
    entry = {"file_name": "rows.json", "formatting": "openai", "tags": {"user_tag": "human"}}
    assert expand(info(entry)).tags == {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "human",
        "assistant_tag": "assistant",
        "observation_tag": "tool",
    }


def test_what_the_source_says_goes_before_the_entry(info: Any) -> None:
    entry = {"file_name": "rows.json", "columns": {"prompt": "a", "response": "b"}}
    source = expand(info(entry, columns={"instruction": "q"}, format="alpaca"))
    assert (source.columns["instruction"], source.columns["output"]) == ("q", "b")


def test_an_entry_on_the_hub_is_a_hub_source(info: Any) -> None:
    entry = {"hf_hub_url": "org/name", "ms_hub_url": "x/y", "split": "train_sft", "subset": "en"}
    source = expand(info(entry))
    assert (source.path, source.hub, source.split, source.subset) == (None, "org/name", "train_sft", "en")


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"file_name": "x", "num_samples": 5}, "num_samples, which would be ignored; read are file_name"),
        ({"script_url": "x"}, "script_url, which would be ignored"),
        ({"hf_hub_url": "x", "folder": "python"}, "folder, which would be ignored"),
        ({"ms_hub_url": "x/y"}, "needs a file_name or an hf_hub_url, has only ms_hub_url"),
        ({}, "needs a file_name or an hf_hub_url, has neither"),
        (
            {"file_name": "x", "formatting": "vicuna"},
            "formatting is 'vicuna'; known: alpaca, sharegpt",
        ),
        ({"file_name": "x", "columns": {"videos": "v"}}, "columns names videos, which is not supported"),
        ({"file_name": "x", "columns": {"prompt": 3}}, "columns.prompt must be text"),
        ({"file_name": "x", "columns": ["a"]}, "columns must be an object"),
        ({"file_name": "x", "tags": {"tool_tag": "t"}}, "tags names tool_tag"),
        ({"file_name": "x", "formatting": "sharegpt", "columns": {"prompt": "p"}}, "columns for instruction"),
    ],
)
def test_what_cannot_be_honoured_is_named(info: Any, entry: Any, said: str) -> None:
    with pytest.raises(DataError, match=f"dataset_info.json: mine.*{said}"):
        expand(info(entry))


def test_a_missing_entry_names_the_near_ones(info: Any, tmp_path: Path) -> None:
    source = info({"file_name": "x"})
    with pytest.raises(DataError, match="has no entry 'mime'; did you mean mine"):
        expand(source.model_copy(update={"dataset": "mime"}))
    with pytest.raises(DataError, match="say which with dataset: one of mine, other"):
        expand(source.model_copy(update={"dataset": None}))
    (tmp_path / "dataset_info.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(DataError, match="must be a JSON object of entries by name"):
        expand(source)
    (tmp_path / "dataset_info.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="is not valid JSON"):
        expand(source)
    with pytest.raises(DataError, match="cannot read"):
        expand(SourceConfig(path=str(tmp_path / "none.json"), dataset="mine"))


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_every_entry_of_a_real_description_is_expanded_or_refused(
    tmp_path: Path,
) -> None:
    for path in DATA.glob("lf_*"):
        (tmp_path / path.name.removeprefix("lf_")).symlink_to(path)
    info = tmp_path / "dataset_info.json"
    loaded, refused = {}, {}
    for name in json.loads(info.read_text(encoding="utf-8")):
        try:
            source = expand(SourceConfig(path=str(info), dataset=name))
        except DataError as error:
            refused[name] = str(error)
            continue
        if source.hub is None and Path(source.path or "").exists():
            records = [found for found in read(source) if isinstance(found, Record)]
            assert detect(records, source.format, source.columns) == source.format
            rows = list(map(converter(source, source.format), records))
            assert not unread(records[0].fields, source.format, source.columns)
            loaded[name] = (source.format, len(rows))
    assert loaded == {
        "identity": ("alpaca", 91),
        "alpaca_en_demo": ("alpaca", 999),
        "alpaca_zh_demo": ("alpaca", 1000),
        "glaive_toolcall_zh_demo": ("sharegpt", 300),
        "mllm_demo": ("sharegpt", 6),
        "dpo_zh_demo": ("preference", 300),
        "kto_en_demo": ("kto", 300),
    }
    reasons = {
        "mllm_audio_demo": "audios",
        "mllm_video_demo": "videos",
        "mllm_video_audio_demo": "videos",
        "deepctrl": "only ms_hub_url",
        "starcoder_python": "folder",
    }
    assert refused.keys() == reasons.keys()
    assert all(reason in refused[name] for name, reason in reasons.items())
