"""A server the quick tests share, adapters that sign their answers, and an engine's side of a registry."""

from __future__ import annotations

import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from serve_load import signing_adapter
from servers import KEYS, Running, running

from seektune.adapters.attach import attach
from seektune.adapters.slots import Slots
from seektune.adapters.store import save_adapter
from seektune.config.adapter import AdapterSpec
from seektune.models.load import Loaded, load_model
from seektune.serving.registry import Command, Publish

Put = Callable[[str, int], Path]


@pytest.fixture(scope="session")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Folders of adapters of tiny/llama, each by the letter it answers with."""
    root = tmp_path_factory.mktemp("signed")
    return {letter: signing_adapter(root, letter) for letter in "AB"}


@pytest.fixture(scope="session")
def server(signed: Mapping[str, Path]) -> Iterator[Running]:
    """tiny/llama with the signing adapters, behind keys."""
    with running(load_model("tiny/llama"), KEYS, adapters=signed) as at:
        yield at


class Engine:
    """What the engine thread does with commands, when it is told to."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.queue: deque[Command] = deque()

    def step(self) -> None:
        """Apply every command in order, as between two steps."""
        while self.queue:
            command = self.queue.popleft()
            if isinstance(command, Publish):
                self.slots.publish(command.staged)
            else:
                self.slots.retire(command.key)


@pytest.fixture(scope="session")
def contents(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four adapters of tiny/llama, each of another content."""
    root = tmp_path_factory.mktemp("contents")
    folders = []
    for seed in range(4):
        spec = AdapterSpec(r=2, target_modules=["q_proj"], init_lora_weights=False)
        folders.append(save_adapter(attach(load_model("tiny/llama"), spec, seed=seed), root / str(seed)))
    return folders


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root"
    path.mkdir()
    return path


@pytest.fixture
def put(root: Path, contents: list[Path]) -> Put:
    """Put content number i at a place under the root, replacing what is there."""

    def place(where: str, content: int) -> Path:
        shutil.rmtree(root / where, ignore_errors=True)
        return Path(shutil.copytree(contents[content], root / where))

    return place


@pytest.fixture(scope="session")
def base() -> Loaded:
    return load_model("tiny/llama")


@pytest.fixture
def engine(base: Loaded) -> Iterator[Engine]:
    """Three slots."""
    slots = Slots(base, max_slots=3, max_rank=4)
    yield Engine(slots)
    slots.close()
