"""Many adapters resident in one model: prepared beside it, published between two steps, mixed in a batch.

Every text linear and routed experts module of the model gets a wrapper once; they share one object that says
which rows of the forward under way use which slot. Only `prepare` and `discard` may run on other threads than
the one that runs the model.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from seektune.adapters.attach import unwrap, wrap
from seektune.adapters.checked import TEXT_GROUPS, Checked, check_adapter
from seektune.adapters.resident import Current, ResidentExperts, ResidentLinears
from seektune.adapters.store import Limits
from seektune.adapters.wrap import AdaptedLinear
from seektune.errors import AdapterError
from seektune.models.load import Loaded
from seektune.models.sites import all_sites
from seektune.ops.multi_expert_lora import ExpertLora
from seektune.ops.multi_lora import Mix, mix_rows


@dataclass(frozen=True, eq=False)
class Staged:
    """An adapter whose matrices lie in a slot that no row uses yet."""

    key: str  # name@version
    content_hash: str
    bytes: int
    slot: int
    ranks: Mapping[str, int]  # by site name of linears
    experts: Mapping[str, ExpertLora]  # by site name of routed experts


@dataclass(eq=False)
class _Resident:
    """A published adapter: the requests that hold it, and whether new ones may."""

    staged: Staged
    holders: int = 0
    retired: bool = False


class Slots:
    """The resident adapters of one model, each in a numbered slot; a key is `name@version`.

    Matrices are kept in the model's dtype, to which every product casts them anyway: an answer is the one of
    the adapter attached alone. `max_bytes` bounds their sum. On a GPU the slots of a linear are reserved
    together, `max_slots` times `max_rank`, when the first adapter needs them.
    """

    def __init__(
        self, loaded: Loaded, *, max_slots: int = 16, max_rank: int = 64, max_bytes: int | None = None
    ) -> None:
        if max_slots < 1 or max_rank < 1:
            raise AdapterError(f"max_slots ({max_slots}) and max_rank ({max_rank}) must be at least 1")
        self.max_slots, self.max_rank, self.max_bytes = max_slots, max_rank, max_bytes
        self._loaded = loaded
        self._current = Current()
        self._linears: dict[str, ResidentLinears] = {}
        self._experts: dict[str, ResidentExperts] = {}
        for site in all_sites(loaded.model, loaded.family):
            if site.group in TEXT_GROUPS:
                self._adopt(site.name)
        self._free = list(range(max_slots))
        self._bytes = 0
        self._changed = threading.Condition()  # guards _free and _bytes
        self._residents: dict[str, _Resident] = {}
        self._last: tuple[tuple[str | None, ...], tuple[int, ...], Mix] | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys that requests may acquire."""
        return tuple(key for key, resident in list(self._residents.items()) if not resident.retired)

    @property
    def taken(self) -> int:
        """Number of slots that staged, published and draining adapters occupy."""
        return self.max_slots - len(self._free)

    @property
    def used_bytes(self) -> int:
        """Bytes of the staged, published and draining adapters."""
        return self._bytes

    def holders(self, key: str) -> int:
        """How many requests hold the adapter; 0 where it is not resident."""
        resident = self._residents.get(key)
        return 0 if resident is None else resident.holders

    def room_for(self, size: int, given: int = 0) -> bool:
        """Whether a slot and `size` bytes would be free once `given` more slots are."""
        fits = self.max_bytes is None or self._bytes + size <= self.max_bytes
        return fits and len(self._free) + given > 0

    def prepare(
        self, folder: Path | str, name: str, *, root: Path | str | None = None, timeout: float = 0.0
    ) -> Staged:
        """`check` and `stage` in one; on any thread."""
        return self.stage(self.check(folder, name, root=root), timeout)

    def check(self, folder: Path | str, name: str, *, root: Path | str | None = None) -> Checked:
        """Read an adapter folder; AdapterError when it does not fit the base or the limits; on any thread."""
        limits = Limits(self.max_rank, self.max_bytes, simple_patterns=True)
        return check_adapter(self._loaded, folder, name, root=root, limits=limits)

    def stage(self, checked: Checked, timeout: float = 0.0) -> Staged:
        """Copy the matrices to a free slot, waiting up to `timeout` seconds for one and for memory.

        On any thread. Raises AdapterError when there is no room; nothing has changed then.
        """
        slot = self._reserve(checked.key, checked.bytes, timeout)
        try:
            for site, (a, b) in checked.linears.items():
                self._linears[site].stage(slot, a, b)
        except BaseException:
            self._give_back(slot, checked.bytes)
            raise
        ranks = {site: len(a) for site, (a, _) in checked.linears.items()}
        return Staged(checked.key, checked.content_hash, checked.bytes, slot, ranks, checked.experts)

    def discard(self, staged: Staged) -> None:
        """Give up a staged adapter that will not be published; on any thread."""
        self._give_back(staged.slot, staged.bytes)

    def publish(self, staged: Staged) -> str:
        """Let requests acquire a staged adapter, between two steps; returns its key.

        Moves no weights. Where the same key is resident, that one serves (again) and the new copy is dropped.
        """
        if staged.key in self._residents:
            self._residents[staged.key].retired = False
            self.discard(staged)
            return staged.key
        for site, linears in self._linears.items():
            linears.ranks[staged.slot] = staged.ranks.get(site, 0)
        for site, experts in self._experts.items():
            experts.loras[staged.slot] = staged.experts.get(site)
        self._residents[staged.key] = _Resident(staged)
        self._last = None
        return staged.key

    def acquire(self, key: str) -> None:
        """Hold an adapter for a request; AdapterError when it is not there or is on its way out."""
        resident = self._residents.get(key)
        if resident is None or resident.retired:
            raise AdapterError(f"adapter {key!r} is not loaded (loaded: {', '.join(self.keys) or 'none'})")
        resident.holders += 1

    def release(self, key: str) -> None:
        """The request is over; a retired adapter that nobody holds is freed."""
        resident = self._residents[key]
        if resident.holders < 1:
            raise AdapterError(f"adapter {key!r} is released more often than it was acquired")
        resident.holders -= 1
        self._free_idle(key)

    def retire(self, key: str) -> None:
        """No request may acquire the adapter any more; it is freed when the last one that holds it ends."""
        if key in self._residents:
            self._residents[key].retired = True
            self._free_idle(key)

    def slot_of(self, key: str | None) -> int:
        """Number of a resident adapter's slot, −1 for the base: a batch in this order is the cheapest."""
        if key is None:
            return -1
        if key not in self._residents:
            raise AdapterError(f"adapter {key!r} is not resident: acquire it for as long as it is used")
        return self._residents[key].staged.slot

    @contextmanager
    def using(self, rows: Sequence[str | None], counts: Sequence[int]) -> Iterator[None]:
        """Within the block a forward's token rows are those of sequences, in order: counts[i] of key rows[i].

        None is the base alone; an adapter that was attached and is active plays no part. A batch of one
        adapter only may have any number of rows.
        """
        self._current.mix = self._mix(tuple(rows), tuple(counts))
        try:
            yield
        finally:
            self._current.mix = None

    def close(self) -> None:
        """Take all adapters out of the model; what was attached to it stays."""
        for site in (*self._linears, *self._experts):
            wrapper = wrap(self._loaded.model, site)
            wrapper.resident = None
            if not wrapper.deltas:
                unwrap(self._loaded.model, site, wrapper)

    def _adopt(self, site: str) -> None:
        wrapper = wrap(self._loaded.model, site)
        if wrapper.resident is not None:
            raise AdapterError("this model has slots already: close them first")
        if isinstance(wrapper, AdaptedLinear):
            shape = (self.max_slots, self.max_rank, wrapper.in_features, wrapper.out_features)
            wrapper.resident = self._linears[site] = ResidentLinears(
                self._current, shape, [0] * self.max_slots
            )
        else:
            wrapper.resident = self._experts[site] = ResidentExperts(self._current, [None] * self.max_slots)

    def _reserve(self, key: str, size: int, timeout: float) -> int:
        most = self.max_bytes
        if most is not None and size > most:
            raise AdapterError(f"adapter {key} needs {size:,} bytes, more than all adapters may: {most:,}")
        with self._changed:
            if not self._changed.wait_for(lambda: self.room_for(size), timeout):
                full = f"all {self.max_slots} slots are taken" if not self._free else "the memory is taken"
                raise AdapterError(
                    f"there is no room for adapter {key} ({size:,} bytes): {full} by "
                    f"{', '.join(self._residents)}; unload one, or raise serving.max_loras or "
                    "serving.adapter_memory_bytes",
                    "busy",
                )
            self._bytes += size
            self._free.sort()
            return self._free.pop(0)

    def _give_back(self, slot: int, size: int) -> None:
        with self._changed:
            self._free.append(slot)
            self._bytes -= size
            self._changed.notify_all()

    def _free_idle(self, key: str) -> None:
        resident = self._residents[key]
        if resident.holders or not resident.retired:
            return
        del self._residents[key]
        for experts in self._experts.values():
            experts.loras[resident.staged.slot] = None
        self._last = None
        self._give_back(resident.staged.slot, resident.staged.bytes)

    def _mix(self, rows: tuple[str | None, ...], counts: tuple[int, ...]) -> Mix:
        """The mix of these rows: the same object as long as they stay the same, so that plans are kept."""
        if self._last is None or self._last[:2] != (rows, counts):
            mix = mix_rows([self.slot_of(key) for key in rows], counts, self._loaded.device)
            self._last = (rows, counts, mix)
        return self._last[2]
