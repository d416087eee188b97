"""Who computes how many tokens in the next step: admission, chunks, preemption, fairness. No tensors here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from seektune.generation.pages import Pages
from seektune.generation.sequence import Sequence


class Scheduler:
    """Continuous batching under a token budget.

    Decoding sequences come first, then prompts under way, then new ones while the budget lasts. Where pages
    run out the youngest sequence gives its own back and is computed again later; the oldest never does, so
    something always moves. New sequences are taken from the adapter that got the fewest tokens so far
    (virtual token counters; Sheng et al. 2024, "Fairness in serving large language models"), and in order of
    arrival within one adapter.
    """

    def __init__(
        self, pages: Pages, *, max_num_seqs: int, max_num_batched_tokens: int, preempts: bool = True
    ) -> None:
        self.pages = pages
        self.running: list[Sequence] = []
        self.preemptions = 0
        self._max_num_seqs = max_num_seqs
        self._budget = max_num_batched_tokens
        # If not, a prompt is one chunk, and a sequence is admitted with pages for all it may become.
        self._preempts = preempts
        self._waiting: dict[str | None, deque[Sequence]] = {}  # by adapter; none is empty
        self._served: dict[str | None, int] = {}  # tokens by adapter, of those that have sequences

    @property
    def waiting(self) -> int:
        """Sequences not yet admitted."""
        return sum(map(len, self._waiting.values()))

    def __len__(self) -> int:
        return self.waiting + len(self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; the pool must be large enough for it alone."""
        adapter = sequence.request.adapter
        if adapter not in self._served:
            # Idle time earns no credit: a newcomer starts where the least served stands.
            self._served[adapter] = min(self._served.values(), default=0)
        self._waiting.setdefault(adapter, deque()).append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, waiting or running, and free its pages."""
        self._release(sequence)
        adapter = sequence.request.adapter
        if sequence in self.running:
            self.running.remove(sequence)
        else:
            self._unqueue(sequence)
        if adapter not in self._waiting and all(s.request.adapter != adapter for s in self.running):
            del self._served[adapter]

    def schedule(self) -> list[tuple[Sequence, int]]:
        """Sequences of the next step and how many of each one's pending tokens it computes."""
        chunks: dict[Sequence, int] = {}
        before = self.preemptions
        for sequence in sorted(self.running, key=_decoding_first):
            size = min(sequence.pending, self._budget - sum(chunks.values()))
            if size and sequence in self.running and self._make_room(sequence, size, chunks.pop):
                chunks[sequence] = size
        budget = self._budget - sum(chunks.values())
        while budget > 0 and before == self.preemptions and (admitted := self._admit()):
            chunks[admitted] = min(admitted.pending, budget) if self._preempts else admitted.pending
            budget -= chunks[admitted]
        for sequence, size in chunks.items():
            self._served[sequence.request.adapter] += size
        return list(chunks.items())

    def _make_room(self, sequence: Sequence, size: int, drop: Callable[[Sequence, None], object]) -> bool:
        """Pages for `size` more tokens, taken from the youngest where none are left."""
        while not self.pages.reserve(sequence.table, sequence.computed + size):
            youngest = max(self.running, key=lambda other: other.arrival)
            drop(youngest, None)
            self._preempt(youngest)
            if youngest is sequence:
                return False
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self.preemptions += 1
        self.running.remove(sequence)
        self._release(sequence)
        sequence.computed, sequence.sound, sequence.state = 0, 0, None
        self._waiting.setdefault(sequence.request.adapter, deque()).appendleft(sequence)

    def _admit(self) -> Sequence | None:
        """The next waiting sequence, with pages for all it has to compute, or None."""
        if not self._waiting or len(self.running) == self._max_num_seqs:
            return None
        adapter = min(self._waiting, key=lambda name: (self._served[name], self._waiting[name][0].arrival))
        sequence = self._waiting[adapter][0]
        found = self.pages.share(sequence.table, sequence.tokens)
        room = len(sequence.tokens) if self._preempts else sequence.longest
        if not self.pages.reserve(sequence.table, room):
            self.pages.release(sequence.table)
            return None
        if sequence.cached is None:
            sequence.cached = found
        sequence.computed = found
        self._unqueue(sequence)
        self.running.append(sequence)
        return sequence

    def _release(self, sequence: Sequence) -> None:
        self.pages.release(sequence.table, sound=sequence.sound == sequence.computed)

    def _unqueue(self, sequence: Sequence) -> None:
        queue = self._waiting[sequence.request.adapter]
        queue.remove(sequence)
        if not queue:
            del self._waiting[sequence.request.adapter]


def _decoding_first(sequence: Sequence) -> tuple[bool, int]:
    return sequence.pending > 1, sequence.arrival
