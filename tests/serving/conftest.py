"""One server that the quick tests share, and adapters that sign their answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from servers import KEYS, Running, running, signing_adapter

from seektune.adapters.attach import activate
from seektune.adapters.store import load_adapter
from seektune.models.load import load_model


@pytest.fixture(scope="session")
def signed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Folders of adapters of tiny/llama, each by the letter it answers with."""
    root = tmp_path_factory.mktemp("signed")
    return {letter: signing_adapter(root, letter) for letter in "AB"}


@pytest.fixture(scope="session")
def server(signed: Mapping[str, Path]) -> Iterator[Running]:
    """tiny/llama with the signing adapters, behind keys."""
    loaded = load_model("tiny/llama")
    for letter, folder in signed.items():
        load_adapter(loaded, folder, name=letter)
    activate(loaded, None)
    with running(loaded, KEYS) as at:
        yield at
