"""Names and who answers to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from seektune.models.load import Loaded
from seektune.serving.refusal import Refusal
from seektune.serving.registry import Registry
from seektune.serving.served import Names, Served, base_name


def meant(names: Names, name: str) -> Served:
    with names.serving(name) as served:
        return served


def test_base_adapters_and_aliases_answer_to_their_names(engine, root, put):
    registry = Registry(engine.slots, root, engine.queue.append, state=root / ".state.json")
    names = Names("base", registry)
    put("a/1", 0)
    version = registry.load("a")
    registry.alias("best", "a")
    assert [served.name for served in names.all()] == ["base", "a", "best"]
    assert meant(names, "base") == Served("base", "base")
    assert meant(names, "a") == Served(version.key, "a", version.key, version.content_hash)
    assert meant(names, "best") == meant(names, version.key) == meant(names, "a")
    with pytest.raises(Refusal, match=r"'c' is not served: .*; served: base, a, best") as refused:
        meant(names, "c")
    assert (refused.value.status, refused.value.code, refused.value.param) == (
        404,
        "model_not_found",
        "model",
    )


def test_an_error_of_the_caller_stays_its_own(engine, root, put):
    registry = Registry(engine.slots, root, engine.queue.append, state=None)
    names = Names("base", registry)
    put("a/1", 0)
    registry.load("a")
    with pytest.raises(ZeroDivisionError), names.serving("a"):
        1 / 0  # noqa: B018
    assert meant(names, "a").name == "a"  # the lock was given back


def test_a_base_is_called_by_what_it_was_loaded_by(
    base: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert base_name(base) == "tiny/llama"
    folder = tmp_path / "my-model"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert [base_name(replace(base, source=source)) for source in (str(folder), ".")] == ["my-model"] * 2
