"""Entries of a LLaMA-Factory `dataset_info.json` as sources."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from seektune.config.data import SourceConfig
from seektune.data.formats.conversations import TAGS
from seektune.data.formats.layouts import FORMATS
from seektune.errors import DataError

COLUMNS: Mapping[str, str] = MappingProxyType(
    {
        "prompt": "instruction",
        "query": "input",
        "response": "output",
        "history": "history",
        "messages": "messages",
        "system": "system",
        "tools": "tools",
        "images": "images",
        "chosen": "chosen",
        "rejected": "rejected",
        "kto_tag": "label",
    }
)
"""LLaMA-Factory's name of a column → our field."""
KEYS = ("file_name", "hf_hub_url", "formatting", "ranking", "subset", "split", "columns", "tags")
ELSEWHERE = ("ms_hub_url", "om_hub_url", "file_sha1")
"""Keys of an entry that change nothing where the file or the Hugging Face id is there as well."""
OPENAI_TAGS: Mapping[str, str] = MappingProxyType(
    {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "observation_tag": "tool",
    }
)


def expand(source: SourceConfig) -> SourceConfig:
    """The source that an entry of a `dataset_info.json` describes; any other source as it is.

    What the source itself says (format, columns, tags) goes before the entry. Raises DataError for a file
    without that entry and for keys of it that are unknown or cannot be honoured.
    """
    if source.path is None or (source.dataset is None and not source.path.endswith("dataset_info.json")):
        return source
    path = Path(source.path)
    path = path / "dataset_info.json" if path.is_dir() else path
    entry = _entry(path, source.dataset)
    where = f"{path}: {source.dataset}"
    _check(entry, where)
    columns = _texts(entry, "columns", where, COLUMNS)
    name, ours = _mapping(entry, columns, where)
    hub = entry.get("hf_hub_url")
    place = (
        {"hub": hub, "path": None} if hub else {"hub": None, "path": str(path.parent / entry["file_name"])}
    )
    update = place | {
        "dataset": None,
        "format": source.format if source.format != "auto" else name,
        "columns": ours | source.columns,
        "tags": _entry_tags(entry, where) | source.tags,
        "split": entry.get("split") or source.split,
        "subset": entry.get("subset") or source.subset,
    }
    return SourceConfig(**source.model_dump() | update)


def _entry(path: Path, name: str | None) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(entries, dict) or not all(isinstance(entry, dict) for entry in entries.values()):
        raise DataError(f"{path} must be a JSON object of entries by name, as LLaMA-Factory writes it")
    if name is None:
        raise DataError(f"{path} describes datasets; say which with dataset: one of {', '.join(entries)}")
    if name not in entries:
        near = difflib.get_close_matches(name, entries, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"it has {', '.join(entries)}"
        raise DataError(f"{path} has no entry {name!r}; {hint}")
    found: dict[str, Any] = entries[name]
    return found


def _check(entry: Mapping[str, Any], where: str) -> None:
    unknown = [key for key, value in entry.items() if key not in (*KEYS, *ELSEWHERE) and value is not None]
    if unknown:
        raise DataError(
            f"{where} has {', '.join(unknown)}, which would be ignored; read are {', '.join(KEYS)}"
        )
    if not isinstance(entry.get("hf_hub_url") or entry.get("file_name"), str):
        other = ", ".join(key for key in ELSEWHERE if key in entry)
        found = f"has only {other}" if other else "has neither"
        raise DataError(f"{where} needs a file_name or an hf_hub_url, {found}; download it and give its path")
    formatting = entry.get("formatting", "alpaca")
    if formatting not in ("alpaca", "sharegpt", "openai"):
        raise DataError(f"{where}: formatting is {formatting!r}; known: alpaca, sharegpt, openai")


def _texts(entry: Mapping[str, Any], key: str, where: str, known: Mapping[str, Any]) -> dict[str, str]:
    """An entry's columns or tags; DataError for a name that is not known or not text."""
    found = entry.get(key) or {}
    if not isinstance(found, dict):
        raise DataError(f"{where}: {key} must be an object of names, is {found!r}")
    for name, value in found.items():
        if name not in known:
            raise DataError(f"{where}: {key} names {name}, which is not supported; known: {', '.join(known)}")
        if not isinstance(value, str):
            raise DataError(f"{where}: {key}.{name} must be text, is {value!r}")
    return found


def _entry_tags(entry: Mapping[str, Any], where: str) -> dict[str, str]:
    tags = _texts(entry, "tags", where, dict.fromkeys(TAGS))
    if tags and entry.get("formatting") == "openai":
        return {**OPENAI_TAGS, **tags}
    return tags


def _mapping(entry: Mapping[str, Any], columns: Mapping[str, str], where: str) -> tuple[str, dict[str, str]]:
    """Our format and columns; as in LLaMA-Factory, fields an entry's `columns` leave out are not read."""
    formatting = entry.get("formatting", "alpaca")
    alpaca = formatting == "alpaca"
    if "kto_tag" in columns:
        name = "kto"
    elif entry.get("ranking"):
        name = "preference"
    elif alpaca and columns and "response" not in columns:
        return "text", {"text": columns.get("prompt", "text")}
    else:
        name = {"alpaca": "alpaca", "sharegpt": "sharegpt", "openai": "messages"}[formatting]
    ours = {COLUMNS[column]: value for column, value in columns.items()}
    strange = [field for field in ours if field not in FORMATS[name].columns]
    if strange:
        raise DataError(f"{where}: columns for {', '.join(strange)}, which the format {name} does not have")
    needed = {"chosen", "rejected", "label"} | ({"instruction", "output"} if alpaca else {"messages"})
    left_out = {field: "" for field in FORMATS[name].columns if field not in needed} if columns else {}
    return name, left_out | ours
