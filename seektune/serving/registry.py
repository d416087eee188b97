"""Which adapters a server serves: loaded, swapped, aliased and evicted while requests run.

The registry works on its callers' threads. To the engine it says nothing but `Publish` and `Retire`, put in
the engine's queue in order by `send`; every change is in the state file before a request can see it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from seektune.adapters.checked import Checked
from seektune.adapters.folder import signature
from seektune.adapters.slots import Slots, Staged
from seektune.errors import AdapterError
from seektune.serving.catalog import Found, Places, check_name
from seektune.serving.published import Published, Version, read_published, write_published


@dataclass(frozen=True)
class Publish:
    """To the engine: `slots.publish(staged)` before the next step."""

    staged: Staged


@dataclass(frozen=True)
class Retire:
    """To the engine: `slots.retire(key)` before the next step."""

    key: str


Command = Publish | Retire


class Registry:
    """The served adapters of one folder.

    `send` must put a command in the engine's queue without waiting. `state` is the file from which `restore`
    brings back what was published; `reserved` are names that no adapter may have. `fixed` are folders of the
    operator's own, from anywhere, by name: `restore` loads them too, and they are never evicted. Without a
    `root` there are no others. A load waits at most `drain_seconds` for a slot that it had to free.
    """

    def __init__(
        self,
        slots: Slots,
        root: Path | str | None,
        send: Callable[[Command], None],
        *,
        state: Path | str | None,
        reserved: Collection[str] = (),
        fixed: Mapping[str, Path] = MappingProxyType({}),
        drain_seconds: float = 30.0,
    ) -> None:
        self._slots, self._send, self._drain_seconds = slots, send, drain_seconds
        self._places = Places(None if root is None else Path(root), fixed)
        self._file = None if state is None else Path(state)
        self._reserved = frozenset(reserved)
        self._changing = threading.Lock()  # one change at a time; held while files are read and written
        self._lock = threading.Lock()  # the published value and the engine's queue move together
        self._published = Published()
        self._used: dict[str, int] = {}  # key → when a request last named it, in requests
        self._requests = 0
        self._reasons: dict[str, str] = {}  # name → why it is not served, or not in its newest form
        self._seen: dict[str, object] = {}  # name → what the watcher saw at its last look
        self._tried: dict[str, object] = {}  # name → what the watcher last tried to load

    @property
    def published(self) -> Published:
        """What requests may name now."""
        return self._published

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why a name is not served, or not in its newest form."""
        return MappingProxyType(self._reasons)

    @contextmanager
    def serving(self, model: str) -> Iterator[str]:
        """The key that `model` means, which stays acquirable for what is put in the engine's queue within.

        Within the block nothing may wait. Raises AdapterError, with the reason, for what is not served.
        """
        with self._lock:
            key = self._published.key_of(model)
            if key is None:
                reason = self._reasons.get(model, "no adapter, version or alias of that name is loaded")
                raise AdapterError(f"{model[:200]!r} is not served: {reason}")
            self._requests += 1
            self._used[key] = self._requests
            yield key

    def load(self, name: str, version: str | None = None) -> Version:
        """Read, check and publish an adapter under the root; the same content again changes nothing.

        Requests under way keep the version they began with. Raises AdapterError with the reason; what is
        served is as before then.
        """
        with self._changing:
            return self._load(self._places.find(name, version))

    def unload(self, name: str) -> None:
        """Serve a name, or one `name@version`, no longer; requests under way finish."""
        with self._changing:
            before = self._published
            keys = [key for key, version in before.versions.items() if name in (key, version.name)]
            if not keys:
                raise AdapterError(
                    f"{name[:200]!r} is not loaded (loaded: {', '.join(before.names) or 'none'})", "missing"
                )
            if pointing := [alias for key in keys for alias in before.aliases_of(key)]:
                raise AdapterError(f"{name} has aliases: move or remove {', '.join(pointing)} first")
            self._commit(before.without(keys))
            self._reasons |= {before.versions[key].name: "it was unloaded" for key in keys}

    def alias(self, alias: str, name: str) -> str:
        """Let `alias` mean the version that `name` means now, in one move; returns its key."""
        with self._changing:
            check_name(alias)
            before = self._published
            if alias in before.names or alias in self._reserved:
                raise AdapterError(
                    f"{alias!r} is the name of an adapter or of the base: choose another alias"
                )
            key = before.key_of(name)
            if key is None:
                raise AdapterError(
                    f"{name[:200]!r} is not loaded, so nothing can stand for it: load it first", "missing"
                )
            old = before.aliases.get(alias)
            after = replace(before, aliases={**before.aliases, alias: key})
            self._commit(self._swept(after, old))
            return key

    def unalias(self, alias: str) -> None:
        """Remove an alias; a version that only it kept goes with it."""
        with self._changing:
            before = self._published
            if alias not in before.aliases:
                raise AdapterError(
                    f"{alias[:200]!r} is no alias (aliases: {', '.join(before.aliases) or 'none'})", "missing"
                )
            kept = {name: key for name, key in before.aliases.items() if name != alias}
            self._commit(self._swept(replace(before, aliases=kept), before.aliases[alias]))

    def restore(self) -> None:
        """Bring back what the state file says was published; what cannot come back is in `reasons`.

        Raises AdapterError where the file is damaged or could not be written again.
        """
        with self._changing:
            wanted = Published() if self._file is None else read_published(self._file)
            if self._file is not None:
                write_published(self._file, wanted)  # or say so now, and not at the first change
            staged: list[Staged] = []
            lost: list[str] = []
            for version in wanted.versions.values():
                try:
                    staged.append(self._staged_again(version))
                except AdapterError as error:
                    lost.append(version.key)
                    self._reasons[version.name] = str(error)
            for alias, key in wanted.aliases.items():
                if key in lost:
                    self._reasons[alias] = f"its version {key} did not come back"
            aliases = {alias: key for alias, key in wanted.aliases.items() if key not in lost}
            with self._lock:
                self._published = replace(wanted.without(lost), aliases=aliases)
                for one in staged:
                    self._send(Publish(one))
            for name in self._places.fixed:
                self._load(self._places.find(name))

    def poll(self) -> list[str]:
        """One look of a watcher at the root: loads what is new, unloads what is gone; says what it did.

        Raises AdapterError where the root cannot be listed.
        A folder is loaded when two looks found it the same, so that a copy under way is left alone; what
        failed is tried again when it has changed.
        """
        done: list[str] = []
        found = dict(self._places.scan())
        for name, what in found.items():
            look: object = str(what) if isinstance(what, AdapterError) else (what, signature(what.folder))
            settled = self._seen.get(name) == look
            self._seen[name] = look
            if settled and self._tried.get(name) != look:
                self._tried[name] = look
                done.append(self._try(name, what))
        for name in self._tried.keys() - found.keys():
            del self._tried[name], self._seen[name]
            done.append(self._dropped(name))
        return [line for line in done if line]

    def _try(self, name: str, what: Found | AdapterError) -> str:
        try:
            if isinstance(what, AdapterError):
                raise what
            return f"loaded {self.load(name).key}"
        except Exception as error:  # of one adapter: the others are still looked at
            self._reasons[name] = f"its newest form was refused: {error}"
            return f"{name} is not loaded: {error}"

    def _dropped(self, name: str) -> str:
        self._reasons.pop(name, None)
        if name not in self._published.names:
            return ""
        try:
            self.unload(name)
        except AdapterError as error:
            return f"{name} is gone from {self._places.root}, but stays: {error}"
        return f"unloaded {name}, which is gone from {self._places.root}"

    def _load(self, found: Found) -> Version:
        if found.name in self._published.aliases or found.name in self._reserved:
            raise AdapterError(f"{found.name!r} is an alias or the base: rename the adapter")
        checked = self._slots.check(found.folder, found.name, root=self._places.root_of(found.name))
        version = Version(checked.key, found.name, found.place, checked.content_hash, checked.bytes)
        known = self._published.versions.get(version.key)
        if known is not None and known.content_hash != version.content_hash:
            raise AdapterError(f"{found.name}: two contents have the version {version.key}: change one")
        if known is None:
            self._make_room(checked)
        staged = None if known is not None else self._slots.stage(checked, self._drain_seconds)
        self._commit(self._published.with_version(version), staged)
        self._reasons.pop(found.name, None)
        return version

    def _make_room(self, checked: Checked) -> None:
        """Evict the adapters whose last request is longest ago, of those nobody holds and no alias keeps.

        Nothing is evicted where the room is only to be waited for, as adapters are on their way out.
        """
        published, slots = self._published, self._slots
        idle = [
            key
            for key, version in published.versions.items()
            if not slots.holders(key)
            and not published.aliases_of(key)
            and version.name not in self._places.fixed
        ]
        name = checked.key.partition("@")[0]
        idle.sort(key=lambda key: (published.versions[key].name == name, self._used.get(key, 0)))
        # What retired adapters still have is on its way to be free.
        given = slots.taken - len(published.versions)
        size = checked.bytes - slots.used_bytes + sum(v.bytes for v in published.versions.values())
        victims: list[str] = []
        while idle and not slots.room_for(size, given + len(victims)):
            victims.append(idle.pop(0))
            size -= published.versions[victims[-1]].bytes
        if not slots.room_for(size, given + len(victims)):
            raise AdapterError(
                f"there is no room for {checked.key} ({checked.bytes:,} bytes): requests or aliases hold "
                f"{', '.join(published.versions)}; try again later, or raise serving.max_loras or "
                "serving.adapter_memory_bytes",
                "busy",
            )
        if victims:
            self._commit(published.without(victims))
            reason = f"it was evicted to make room for {checked.key}: load it again"
            self._reasons |= {published.versions[key].name: reason for key in victims}

    def _staged_again(self, version: Version) -> Staged:
        root = self._places.root_of(version.name)
        folder = self._places.find(version.name).folder if root is None else root / version.place
        checked = self._slots.check(folder, version.name, root=root)
        if checked.content_hash != version.content_hash:
            raise AdapterError(
                f"{version.place} no longer holds {version.key}, which was published: load it again"
            )
        return self._slots.stage(checked)

    def _swept(self, after: Published, key: str | None) -> Published:
        """Without a version that was kept by an alias only."""
        kept = key is None or key in after.names.values() or after.aliases_of(key)
        return after if kept else after.without([str(key)])

    def _commit(self, after: Published, staged: Staged | None = None) -> None:
        """Make a change: in the file, then at once for all requests to come."""
        try:
            if self._file is not None:
                write_published(self._file, after)
        except AdapterError:
            if staged is not None:
                self._slots.discard(staged)
            raise
        with self._lock:
            gone = self._published.versions.keys() - after.versions.keys()
            self._published = after
            if staged is not None:
                self._send(Publish(staged))
            for key in sorted(gone):
                self._used.pop(key, None)
                self._send(Retire(key))
