from __future__ import annotations

from seektune.training.world import world


def test_a_process_on_its_own_is_rank_zero_of_one() -> None:
    assert world() == (0, 1)
