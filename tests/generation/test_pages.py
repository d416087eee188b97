from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from seektune.generation.pages import Pages, Table

SIZE = 2


class Life(RuleBasedStateMachine):
    """Sequences of few distinct tokens, so that prefixes meet, in a pool that is often full.

    `content` is what a page would hold: it must be the right prefix for everyone who has the page.
    """

    @initialize(count=st.integers(1, 9), caching=st.booleans())
    def start(self, count: int, caching: bool) -> None:
        self.pages = Pages(count, SIZE, caching=caching)
        self.live: list[tuple[Table, list[int], int]] = []  # table, tokens, computed
        self.content: dict[int, tuple[str, tuple[int, ...]]] = {}

    @rule(key=st.sampled_from(["", "a"]), tokens=st.lists(st.integers(0, 1), min_size=1, max_size=8))
    def admit(self, key: str, tokens: list[int]) -> None:
        table = Table(key)
        found = self.pages.share(table, tokens)
        assert found == len(table.pages) * SIZE < len(tokens)
        for index, page in enumerate(table.pages):
            assert self.content[page] == (key, tuple(tokens[: (index + 1) * SIZE]))
        room = self.pages.needed(len(tokens)) - len(table.pages) <= self.pages.available
        assert self.pages.reserve(table, len(tokens)) == room
        if not room:
            self.pages.release(table)
            return
        for page in table.pages[found // SIZE :]:
            self.content.pop(page, None)  # a new owner writes
        self.live.append((table, tokens, found))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.live) - 1))
        table, tokens, computed = self.live[index]
        computed = data.draw(st.integers(computed, len(tokens)))
        for full in range(computed // SIZE):
            known = (table.cache_key, tuple(tokens[: (full + 1) * SIZE]))
            assert self.content.setdefault(table.pages[full], known) == known
        self.pages.seal(table, tokens, computed)
        self.live[index] = (table, tokens, computed)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        table, _, _ = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        self.pages.release(table)
        assert not table.pages

    @invariant()
    def no_page_is_lost_or_held_twice(self) -> None:
        holders = Counter(page for table, _, _ in self.live for page in table.pages)
        assert self.pages.used == len(holders)
        assert all(len(set(table.pages)) == len(table.pages) for table, _, _ in self.live)
        unfinished = [page for table, _, computed in self.live for page in table.pages[computed // SIZE :]]
        assert all(holders[page] == 1 for page in unfinished)


TestLife = Life.TestCase


def test_another_cache_key_shares_nothing() -> None:
    pages = Pages(8, SIZE)
    table = Table("one")
    pages.reserve(table, 6)
    pages.seal(table, [1, 2, 3, 4, 5, 6], 6)
    assert pages.share(Table("two"), [1, 2, 3, 4, 5, 6]) == 0
    assert pages.share(Table("one"), [1, 2, 3, 4, 5, 6]) == 4  # the last token is computed for its logits
    assert pages.share(Table("one"), [1, 2, 9, 4, 5, 6, 7]) == 2


def test_the_longest_unused_prefix_is_given_up_first_and_its_end_before_its_beginning() -> None:
    pages = Pages(4, SIZE)
    for tokens in ([1, 1, 1, 1], [2, 2, 2, 2]):
        table = Table()
        pages.reserve(table, 4)
        pages.seal(table, tokens, 4)
        pages.release(table)
    newcomer = Table()
    pages.reserve(newcomer, 2)
    shared = Table()
    assert pages.share(shared, [1, 1, 1, 1, 1]) == 2
    pages.release(shared)
    assert pages.share(Table(), [2, 2, 2, 2, 2]) == 4


@given(tokens=st.integers(0, 50), size=st.integers(1, 9))
def test_needed_pages_hold_the_tokens_and_no_page_more(tokens: int, size: int) -> None:
    needed = Pages(1, size).needed(tokens)
    assert (needed - 1) * size < tokens <= needed * size or tokens == needed == 0


def test_what_is_spoilt_is_shared_by_nobody() -> None:
    pages, tokens = Pages(8, SIZE), [1, 2, 3, 4, 5, 6]
    first, second = Table(), Table()
    pages.reserve(first, 6)
    pages.seal(first, tokens, 6)
    assert pages.share(second, tokens) == 4
    pages.spoil(first)
    pages.release(first, sound=False)
    assert pages.share(Table(), tokens) == 0
    pages.release(second, sound=False)
    assert pages.available == 8


@pytest.mark.parametrize("caching", [True, False])
def test_what_nobody_saw_to_be_finite_is_wiped_before_another_has_it(caching: bool) -> None:
    pages, tokens = Pages(4, SIZE, caching=caching), [1, 2, 3, 4]
    first = Table()
    pages.reserve(first, 4)
    pages.seal(first, tokens, 4)
    held = list(first.pages)
    assert pages.to_wipe() == []
    pages.release(first, sound=False)
    assert pages.to_wipe() == []  # whoever has the same prefix may go on with it
    other = Table("other")
    pages.reserve(other, 8)
    assert sorted(pages.to_wipe()) == sorted(held)
    assert pages.to_wipe() == []
    pages.release(other)
    pages.reserve(Table("third"), 8)
    assert pages.to_wipe() == []


def test_a_page_that_was_found_to_be_finite_after_all_is_not_wiped() -> None:
    pages, tokens = Pages(4, SIZE), [1, 2, 3, 4, 5]
    first, second = Table(), Table()
    pages.reserve(first, 4)
    pages.seal(first, tokens, 4)
    pages.release(first, sound=False)
    assert pages.share(second, tokens) == 4
    pages.release(second)
    pages.reserve(Table("other"), 8)
    assert pages.to_wipe() == []
