"""Requests by name, adapters published at the start, a watched root, and an end that leaves no thread."""

from __future__ import annotations

import asyncio
import gc
import shutil
import threading
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from seektune.config.serving import serve_config
from seektune.errors import AdapterError, ModelError
from seektune.generation.request import Sampling
from seektune.models.load import load_model
from seektune.serving.backend import STATE, Backend, open_backend, settle
from seektune.serving.refusal import Refusal

FOUR = Sampling(max_tokens=4, ignore_eos=True)


async def answers(backend: Backend, model: str, *samplings: Sampling, seconds: float = 60) -> list[str]:
    deadline = asyncio.get_running_loop().time() + seconds
    _, outboxes = await backend.submit(model, [[5, 6, 7]], samplings, deadline)
    return [(await outbox.rest()).text for outbox in outboxes]


def test_each_name_answers_for_itself(signed: Mapping[str, Path]):
    with closing(open_backend(load_model("tiny/llama"), serve_config({}), signed)) as backend:

        async def run() -> list[list[str]]:
            return [await answers(backend, model, FOUR, FOUR) for model in ("A", "B")]

        assert asyncio.run(run()) == [["AAAA"] * 2, ["BBBB"] * 2]


def test_who_is_not_served_and_who_is_too_late_are_told(signed: Mapping[str, Path]):
    with closing(open_backend(load_model("tiny/llama"), serve_config({}), signed)) as backend:
        with pytest.raises(Refusal, match="served: tiny/llama, A, B") as unknown:
            asyncio.run(answers(backend, "C", FOUR))
        held = threading.Event()
        backend.worker.send(lambda: held.wait(30))
        with pytest.raises(Refusal, match="request_timeout") as late:
            asyncio.run(answers(backend, "A", FOUR, seconds=0.05))
        held.set()
    assert (unknown.value.status, late.value.status) == (404, 504)


def test_the_root_is_watched_and_its_state_kept_in_it(tmp_path: Path, signed: Mapping[str, Path]):
    config = serve_config({"adapter_root": str(tmp_path)})
    with closing(open_backend(load_model("tiny/llama"), config)) as backend:

        async def run() -> list[str]:
            watching = asyncio.ensure_future(backend.watch(0.02))
            (tmp_path / "new").symlink_to(signed["A"])  # out of the root: stays unloaded
            await asyncio.sleep(0.3)
            assert "new" not in backend.registry.published.names
            (tmp_path / "new").unlink()
            shutil.copytree(signed["A"], tmp_path / "new")
            async with asyncio.timeout(60):
                while "new" not in backend.registry.published.names:
                    await asyncio.sleep(0.02)
            watching.cancel()
            return await answers(backend, "new", FOUR)

        assert asyncio.run(run()) == ["AAAA"]
    assert (tmp_path / STATE).is_file()


def test_a_root_that_is_away_for_a_while_is_told_once_and_looked_at_again(
    tmp_path: Path, signed: Mapping[str, Path], caplog: pytest.LogCaptureFixture
):
    root = tmp_path / "root"
    root.mkdir()
    config = serve_config({"adapter_root": str(root), "adapter_state": str(tmp_path / "state.json")})
    with closing(open_backend(load_model("tiny/llama"), config)) as backend:

        async def run() -> None:
            watching = asyncio.ensure_future(backend.watch(0.02))
            root.rename(tmp_path / "away")
            await asyncio.sleep(0.5)
            (tmp_path / "away").rename(root)
            shutil.copytree(signed["A"], root / "new")
            async with asyncio.timeout(60):
                while "new" not in backend.registry.published.names:
                    await asyncio.sleep(0.02)
            watching.cancel()

        asyncio.run(run())
    assert caplog.text.count(f"cannot list {root}") == 1


def test_what_cannot_start_leaves_no_thread(tmp_path: Path):
    before = threading.active_count()
    with pytest.raises(AdapterError):
        open_backend(load_model("tiny/llama"), serve_config({}), {"none": tmp_path})
    with pytest.raises(ModelError):
        open_backend(replace(load_model("tiny/llama"), tokenizer=None), serve_config({}))
    assert threading.active_count() == before


def test_what_is_loaded_before_serving_is_not_collected_again() -> None:
    held = [[] for _ in range(1000)]
    settle()
    try:
        assert gc.get_freeze_count() > len(held)
        assert not any(one is held for one in gc.get_objects())
    finally:
        gc.unfreeze()
