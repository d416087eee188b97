"""What a server has published: versions, names and aliases as a value, and as a file whole or absent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from seektune.adapters.folder import read_json
from seektune.errors import AdapterError
from seektune.runlog import write_json


@dataclass(frozen=True)
class Version:
    """One content of one adapter."""

    key: str  # name@version
    name: str
    place: str  # its folder relative to the root
    content_hash: str  # 64 hex digits
    bytes: int  # resident


@dataclass(frozen=True)
class Published:
    """The adapters that requests may name: `name` (its latest), `name@version`, or an alias of a version."""

    versions: Mapping[str, Version] = field(default_factory=dict)  # by key
    names: Mapping[str, str] = field(default_factory=dict)  # name → key of its latest version
    aliases: Mapping[str, str] = field(default_factory=dict)  # alias → key

    def key_of(self, model: str) -> str | None:
        """The key a request's model means; None where it means none."""
        key = self.aliases.get(model) or self.names.get(model)
        return key or (model if model in self.versions else None)

    def aliases_of(self, key: str) -> list[str]:
        """Aliases that point to a version, which stays as long as they do."""
        return [alias for alias, target in self.aliases.items() if target == key]

    def listed(self) -> list[dict[str, Any]]:
        """Every version with its aliases, as callers are told."""
        return [asdict(one) | {"aliases": self.aliases_of(one.key)} for one in self.versions.values()]

    def with_version(self, version: Version) -> Published:
        """With a version as the latest of its name; an older one that no alias points to is gone."""
        before = self.names.get(version.name)
        kept = self
        if before is not None and before != version.key and not self.aliases_of(before):
            kept = self.without([before])
        return replace(
            kept,
            versions={**kept.versions, version.key: version},
            names={**kept.names, version.name: version.key},
        )

    def without(self, keys: list[str]) -> Published:
        """Without some versions, and the names whose latest they were."""
        return replace(
            self,
            versions={key: version for key, version in self.versions.items() if key not in keys},
            names={name: key for name, key in self.names.items() if key not in keys},
        )


def read_published(path: Path) -> Published:
    """What `write_published` wrote; nothing published where there is no file. AdapterError when damaged."""
    if not path.exists():
        return Published()
    content = read_json(path)
    try:
        versions = {key: Version(**fields) for key, fields in content["versions"].items()}
        names, aliases = dict(content["names"]), dict(content["aliases"])
        sound = all(isinstance(v.key, str) and v.key == key for key, v in versions.items())
        if not sound or not {*names.values(), *aliases.values()} <= versions.keys():
            raise ValueError("it points to versions that it does not list")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AdapterError(f"{path} is damaged ({error!r}): delete it and load the adapters again") from None
    return Published(versions, names, aliases)


def write_published(path: Path, published: Published) -> None:
    """Write the file in one move; AdapterError when there is no room for it."""
    try:
        write_json(path, asdict(published))
    except OSError as error:
        raise AdapterError(f"cannot write {path}, so nothing is changed: {error}", "unsaved") from None
