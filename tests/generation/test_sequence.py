from __future__ import annotations

from seektune.generation.request import Request
from seektune.generation.sequence import Sequence


def test_a_sequence_counts_what_is_pending_and_answered() -> None:
    sequence = Sequence(Request(id="a", prompt=(5, 6, 7), cache_key="v1"), longest=9)
    assert (sequence.pending, sequence.answered, sequence.table.cache_key) == (3, 0, "v1")
    sequence.computed = 3
    sequence.tokens.append(8)
    assert (sequence.pending, sequence.answered) == (1, 1)
    assert sequence.request.prompt == (5, 6, 7)
