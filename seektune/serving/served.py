"""Names a caller may give as `model` → who answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from seektune.adapters.attach import adapters
from seektune.models.load import Loaded
from seektune.serving.refusal import Refusal, shown


@dataclass(frozen=True)
class Served:
    """Who answers: `id` says which version, `adapter` is the key that the engine knows it by."""

    id: str
    name: str
    adapter: str | None = None
    cache_key: str = ""


class Names:
    """The base model and the adapters that are loaded."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self.base = Path(loaded.source).name if Path(loaded.source).is_dir() else loaded.source

    @contextmanager
    def serving(self, name: str) -> Iterator[Served]:
        """Who answers to `name`, for what is put in the engine's queue within; nothing may wait there.

        Raises Refusal naming what is served.
        """
        for served in self.all():
            if name in (served.id, served.name):
                yield served
                return
        known = ", ".join(served.name for served in self.all())
        raise Refusal(
            f"there is no model {shown(name)}; served: {known}", 404, param="model", code="model_not_found"
        )

    def all(self) -> Iterator[Served]:
        """The base first."""
        yield Served(self.base, self.base)
        for name in adapters(self._loaded):
            yield Served(name, name, name, name)
