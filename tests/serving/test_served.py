"""Names and who answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from seektune.adapters.store import load_adapter
from seektune.models.load import load_model
from seektune.serving.refusal import Refusal
from seektune.serving.served import Names, Served


def meant(names: Names, name: str) -> Served:
    with names.serving(name) as served:
        return served


def test_base_and_adapters_answer_to_their_names(signed: Mapping[str, Path]):
    loaded = load_model("tiny/llama")
    load_adapter(loaded, signed["A"], name="A")
    names = Names(loaded)
    assert [served.name for served in names.all()] == ["tiny/llama", "A"]
    assert meant(names, "tiny/llama").adapter is None
    assert meant(names, "A").adapter == "A"
    with pytest.raises(Refusal, match="there is no model 'a'; served: tiny/llama, A") as refused:
        meant(names, "a")
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")
