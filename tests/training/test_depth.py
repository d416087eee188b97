from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.models.load import load_model
from seektune.models.tiny import TINY
from seektune.training.depth import Depth

FRACTIONS = st.floats(0, 1)


@pytest.mark.parametrize("name", TINY)
def test_the_layers_of_a_models_names_are_known(name: str) -> None:
    loaded = load_model(f"tiny/{name}")
    depth = Depth.of(loaded)
    found = {depth.layer(key) for key, _ in loaded.model.named_parameters()}
    assert found == {-1, *range(depth.layers)}
    assert depth.layers == loaded.model.get_decoder().config.num_hidden_layers


def test_what_stands_before_the_first_layer_is_no_layer() -> None:
    depth = Depth(4, "model.language_model.layers.")
    assert depth.layer("model.language_model.layers.3.mlp.up_proj") == 3
    assert depth.layer("model.vision_model.encoder.layers.2.mlp.fc1") == -1


def test_halves_are_rounded_up_to_whole_layers() -> None:
    assert Depth(5, "").between(0, 0.5) == range(3)
    assert Depth(5, "").between(0.5, 1) == range(3, 5)
    assert not Depth(4, "").between(0.5, 0.6)


@given(st.integers(1, 200), st.lists(FRACTIONS, max_size=6))
def test_stages_that_meet_leave_no_layer_out_and_share_none(layers: int, borders: list[float]) -> None:
    ends = [0.0, *sorted(borders), 1.0]
    parts = [Depth(layers, "").between(a, b) for a, b in pairwise(ends)]
    assert [layer for part in parts for layer in part] == list(range(layers))
