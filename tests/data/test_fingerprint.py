"""The fingerprint changes with everything the prepared rows depend on, and with nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from seektune.config.data import DataConfig
from seektune.config.section import validated
from seektune.data.fingerprint import fingerprint
from seektune.models.chat import load_chat


def test_content_settings_seed_and_tokenizer_all_count(write: Callable[..., Path]) -> None:
    path = write([{"question": "a", "answer": "b"}])
    v3, v2 = load_chat("tiny/deepseek_v3"), load_chat("tiny/deepseek_v2")

    def of(chat: Any = v3, seed: int = 0, **changes: Any) -> str | None:
        return fingerprint(validated(DataConfig, {"train": str(path)} | changes, "data"), chat, seed)

    first = of()
    assert of() == first
    assert of(pack_tokens=512) == first  # packing happens when rows are read
    others = [of(v2), of(seed=1), of(max_length=9), of(cleaning={"html": True}), of(target=str(path))]
    write([{"question": "a", "answer": "c"}])
    assert len({first, *others, of()}) == len(others) + 2


def test_what_lies_on_the_hub_is_never_taken_for_unchanged() -> None:
    config = validated(DataConfig, {"train": [{"hub": "org/name"}]}, "data")
    assert fingerprint(config, load_chat("tiny/llama"), 0) is None
