from __future__ import annotations

import pytest

from seektune.config.engine import EngineConfig
from seektune.config.section import validated
from seektune.errors import ConfigError


@pytest.mark.parametrize("name", ["max_num_seqs", "max_num_batched_tokens", "page_size", "num_pages"])
def test_limits_are_above_zero(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        validated(EngineConfig, {name: 0}, "engine")


def test_a_misspelt_limit_is_named() -> None:
    with pytest.raises(ConfigError, match="did you mean max_num_seqs"):
        validated(EngineConfig, {"max_num_seq": 4}, "engine")
