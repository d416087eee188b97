"""Names a caller may give as `model` → who answers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from seektune.errors import AdapterError
from seektune.models.load import Loaded
from seektune.serving.refusal import Refusal
from seektune.serving.registry import Registry


@dataclass(frozen=True)
class Served:
    """Who answers: `id` names the version too, `adapter` is the key that the engine knows it by."""

    id: str
    name: str
    adapter: str | None = None
    content_hash: str = ""  # of the adapter's version


class Names:
    """The base model, the adapters that are published, and their aliases."""

    def __init__(self, base: str, registry: Registry) -> None:
        self.base = base
        self._registry = registry

    @contextmanager
    def serving(self, name: str) -> Iterator[Served]:
        """Who answers to `name`, for what is put in the engine's queue within; nothing may wait there.

        Raises Refusal with the reason and the names there are.
        """
        if name == self.base:
            yield Served(name, name)
            return
        with ExitStack() as within:
            try:
                key = within.enter_context(self._registry.serving(name))
            except AdapterError as error:
                known = ", ".join(served.name for served in self.all())
                reason = f"{error}; served: {known}"
                raise Refusal(reason, 404, param="model", code="model_not_found") from None
            version = self._registry.published.versions[key]
            yield Served(key, version.name, key, version.content_hash)

    def all(self) -> Iterator[Served]:
        """The base, then what names and aliases mean now."""
        yield Served(self.base, self.base)
        published = self._registry.published
        for name, key in {**published.names, **published.aliases}.items():
            yield Served(key, name, key)


def base_name(loaded: Loaded) -> str:
    """What callers name the base: what it was loaded by, of a path the last part."""
    folder = Path(loaded.source)
    return folder.resolve().name if folder.is_dir() else loaded.source
