"""What adapters lie under a root folder: `name/version/`, `name/` itself, or a run's `name/adapter/`.

Names are single path components; nothing is listed or looked at through a link out of the root.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from seektune.adapters.folder import FILES, NAME, real_folder
from seektune.errors import AdapterError

_RUN = "adapter"  # where a run folder keeps its adapter
_MOST_NAMED = 20  # of the adapters there are, in an error


@dataclass(frozen=True)
class Found:
    """An adapter's place; it may still turn out to be none."""

    name: str
    folder: Path  # with its links resolved
    place: str  # the folder relative to the root, in POSIX spelling


class Places:
    """Where adapters may be loaded from: one root, and `fixed` folders from anywhere by name, which win."""

    def __init__(self, root: Path | None, fixed: Mapping[str, Path]) -> None:
        self.root = None if root is None else root.resolve()
        self.fixed = dict(fixed)
        for name in fixed:
            check_name(name)
        if self.root is not None and not self.root.is_dir():
            raise AdapterError(f"{root} is not a folder: make the one that adapters are served from")

    def find(self, name: str, version: str | None = None) -> Found:
        """As the function `find`, fixed folders too, which have no versions."""
        if name in self.fixed:
            if version is not None:
                raise AdapterError(f"{name} has no versions to choose from: load it without one")
            folder = real_folder(self.fixed[name], None)
            return Found(name, folder, str(folder))
        if self.root is None:
            raise AdapterError("this server has no adapter root, so it loads only what it was started with")
        return find(self.root, name, version)

    def root_of(self, name: str) -> Path | None:
        """Within what the files of an adapter must lie; None for the operator's own."""
        return None if name in self.fixed else self.root

    def scan(self) -> Iterator[tuple[str, Found | AdapterError]]:
        """As the function `scan`; fixed folders are not watched."""
        if self.root is not None:
            yield from ((name, what) for name, what in scan(self.root) if name not in self.fixed)


def find(root: Path, name: str, version: str | None = None) -> Found:
    """The adapter `name` in its folder `version`, else the last version in natural order.

    Raises AdapterError naming the versions there are when there is no such adapter under the root.
    """
    for part in (name,) if version is None else (name, version):
        check_name(part)
    root = root.resolve()
    if not os.path.lexists(root / name):
        known = ", ".join(islice((name for name, _ in scan(root)), _MOST_NAMED)) or "none"
        raise AdapterError(f"there is no adapter {name!r} to load; there are: {known}", "missing")
    base = real_folder(root / name, root)
    if version is None:
        found = _latest(root, name)
        if found is None:
            raise AdapterError(
                f"{name} holds no adapter: neither itself nor a folder in it is one", "missing"
            )
        return found
    place = root / name / version
    if os.path.lexists(place) and _looks_like_one(folder := real_folder(place, root)):
        return _found(root, name, folder)
    raise AdapterError(
        f"{name}/{version} is no adapter; versions: {', '.join(_versions(root, base)) or 'none'}", "missing"
    )


def scan(root: Path) -> Iterator[tuple[str, Found | AdapterError]]:
    """Every name under the root that has an adapter, with its last version, or why it is not usable.

    Raises AdapterError where the root itself cannot be listed.
    """
    root = root.resolve()
    for name in sorted(path.name for path in _children(root)):
        if NAME.fullmatch(name) and (root / name).is_dir():
            try:
                found = _latest(root, name)
            except AdapterError as error:
                yield name, error
                continue
            if found is not None:
                yield name, found


def check_name(name: str) -> None:
    """AdapterError for what cannot name an adapter, an alias or a version."""
    if not NAME.fullmatch(name):
        raise AdapterError(
            f"{name[:200]!r} is no name: use at most 128 letters, digits, . _ + and -, the first a letter or "
            "digit"
        )


def _latest(root: Path, name: str) -> Found | None:
    base = real_folder(root / name, root)
    if _looks_like_one(base):
        return _found(root, name, base)
    if _looks_like_one(base / _RUN):
        return _found(root, name, real_folder(base / _RUN, root))
    versions = _versions(root, base)
    return _found(root, name, real_folder(base / versions[-1], root)) if versions else None


def _versions(root: Path, base: Path) -> list[str]:
    """Names of the version folders in natural order: 2 before 10."""
    found = [
        c.name
        for c in _children(base)
        if NAME.fullmatch(c.name) and _is_inside(c, root) and _looks_like_one(c)
    ]
    return sorted(found, key=_natural)


def _children(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise AdapterError(f"cannot list {folder}: {error}") from None


def _is_inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a ring of links
        return False


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.findall(r"\d+|\D+", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts]


def _looks_like_one(folder: Path) -> bool:
    return any((folder / name).is_file() for name in FILES)


def _found(root: Path, name: str, folder: Path) -> Found:
    return Found(name, folder, folder.relative_to(root).as_posix())
