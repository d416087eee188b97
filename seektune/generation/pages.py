"""Which pages of the key/value memory hold what: allocation, shared prefixes, eviction. No tensors here.

A page holds `page_size` tokens of one sequence. A full page is named by the hash of everything up to its end,
so that a later sequence with the same beginning, under the same `cache_key`, takes it over.
"""

from __future__ import annotations

import hashlib
import heapq
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Table:
    """The pages of one sequence in order, and the names of those that are full and computed."""

    cache_key: str = ""
    pages: list[int] = field(default_factory=list)
    chain: list[bytes] = field(default_factory=list)


class Pages:
    """`num_pages` pages of `page_size` tokens, each free, referenced by sequences, or idle.

    Idle ones keep a known prefix until their place is needed; the longest unused goes first.
    """

    def __init__(self, num_pages: int, page_size: int, *, caching: bool = True) -> None:
        self.num_pages = num_pages
        self.page_size = page_size
        self.caching = caching
        self._free = list(range(num_pages))  # a heap: low pages first keep the touched memory small
        self._references = [0] * num_pages
        self._name: dict[int, bytes] = {}
        self._page: dict[bytes, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._doubtful: set[int] = set()  # pages whose last content nobody saw to be finite
        self._to_wipe: list[int] = []

    @property
    def available(self) -> int:
        """Pages that can be allocated now: free and idle ones."""
        return len(self._free) + len(self._idle)

    @property
    def used(self) -> int:
        """Pages that sequences hold."""
        return self.num_pages - self.available

    def needed(self, tokens: int) -> int:
        """Pages that hold `tokens` tokens."""
        return -(-tokens // self.page_size)

    def share(self, table: Table, tokens: Sequence[int]) -> int:
        """Fill an empty table with known pages of a prefix of `tokens`; returns the number of tokens found.

        At least one token is left to compute, as its logits are wanted.
        """
        assert not table.pages
        if not self.caching:
            return 0
        for index in range((len(tokens) - 1) // self.page_size):
            name = self._next_name(table, tokens, index)
            page = self._page.get(name)
            if page is None:
                break
            self._idle.pop(page, None)
            self._references[page] += 1
            table.pages.append(page)
            table.chain.append(name)
        return len(table.pages) * self.page_size

    def reserve(self, table: Table, tokens: int) -> bool:
        """Give the table room for `tokens` tokens, or change nothing and return False."""
        missing = self.needed(tokens) - len(table.pages)
        if missing > self.available:
            return False
        for _ in range(missing):
            page = self._take()
            self._references[page] = 1
            table.pages.append(page)
        return True

    def seal(self, table: Table, tokens: Sequence[int], computed: int) -> None:
        """Name the pages that the first `computed` tokens have filled, so that others may share them."""
        if not self.caching:
            return
        for index in range(len(table.chain), computed // self.page_size):
            name = self._next_name(table, tokens, index)
            table.chain.append(name)
            if name not in self._page:
                self._page[name] = table.pages[index]
                self._name[table.pages[index]] = name

    def release(self, table: Table, *, sound: bool = True) -> None:
        """Give back all pages of a table; those with a name stay known until their place is needed.

        `sound` says that they hold only what is finite. Others are wiped before anyone else writes there.
        """
        (self._doubtful.difference_update if sound else self._doubtful.update)(table.pages)
        # The last page first: a prefix is useless without its beginning, so that must go last.
        for page in reversed(table.pages):
            self._references[page] -= 1
            if self._references[page]:
                continue
            if page in self._name:
                self._idle[page] = None
            else:
                heapq.heappush(self._free, page)
        table.pages.clear()
        table.chain.clear()

    def spoil(self, table: Table) -> None:
        """Let nobody share what a table holds from now on."""
        for page in table.pages:
            name = self._name.pop(page, None)
            if name is not None:
                del self._page[name]

    def to_wipe(self) -> list[int]:
        """Pages given out since the last call that may hold what is not finite; they have to be wiped now."""
        pages, self._to_wipe = self._to_wipe, []
        return pages

    def _take(self) -> int:
        if self._free:
            page = heapq.heappop(self._free)
        else:
            page, _ = self._idle.popitem(last=False)
            del self._page[self._name.pop(page)]
        if page in self._doubtful:
            self._doubtful.remove(page)
            self._to_wipe.append(page)
        return page

    def _next_name(self, table: Table, tokens: Sequence[int], index: int) -> bytes:
        start = index * self.page_size
        content = array("q", tokens[start : start + self.page_size]).tobytes()
        # A cryptographic hash: a collision would show one user's context to another.
        before = table.chain[index - 1] if index else _hash(table.cache_key.encode())
        return _hash(before + content)


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
