from __future__ import annotations

import copy

import pytest
import torch

from seektune.generation.adapters import AttachedAdapters
from seektune.generation.request import Request
from seektune.generation.runner import NativeRunner, PackedRunner, cache_shape, packs
from seektune.generation.sequence import Sequence
from seektune.models.load import load_model

TOLERANCE = 1e-6  # V2 rotates and routers compute in float32 even in a float64 model
IDS = tuple(range(20, 50))


@pytest.mark.parametrize("name", ["llama", "deepseek_v2", "deepseek_v2_lite", "deepseek_v3"])
@pytest.mark.parametrize("cuts", [(30,), (7, 20, 3), (29, 1), (1, 1, 28)])
def test_logits_of_a_prompt_in_chunks_are_those_of_the_whole(name: str, cuts: tuple[int, ...]) -> None:
    loaded = load_model(f"tiny/{name}", dtype="float64")
    runner = PackedRunner(loaded, AttachedAdapters(loaded), num_pages=10, page_size=4)
    sequence = Sequence(Request(id="0", prompt=IDS), 40)
    sequence.table.pages = [5, 0, 7, 9, 1, 2, 3, 4]
    with torch.no_grad():
        for cut in cuts:
            done, logits = runner.run([(sequence, cut)])
            sequence.computed += cut
            assert len(done) == len(logits) == (0 if sequence.pending else 1)
        whole = loaded.model(input_ids=torch.tensor([IDS])).logits[:, -1]
    torch.testing.assert_close(logits, whole, rtol=0, atol=TOLERANCE)


def test_a_native_sequence_starts_anew_without_its_cache() -> None:
    loaded = load_model("tiny/deepseek_v32", dtype="float64")
    runner = NativeRunner(loaded, AttachedAdapters(loaded))
    sequence = Sequence(Request(id="0", prompt=IDS), 40)
    with torch.no_grad():
        _, first = runner.run([(sequence, 30)])
        sequence.state = None
        _, again = runner.run([(sequence, 30)])
    assert torch.equal(first, again)
    assert sequence.state.get_seq_length() == 30


def test_only_models_whose_rows_do_not_depend_on_each_other_pack() -> None:
    assert packs(load_model("tiny/llama"), 4096)
    assert not packs(load_model("tiny/deepseek_v4"), 4096)
    assert not packs(load_model("tiny/deepseek_vl"), 4096)
    loaded = load_model("tiny/qwen2")
    config = loaded.model.config = copy.deepcopy(loaded.model.config)
    config.rope_parameters = {"rope_type": "longrope", "original_max_position_embeddings": 512}
    assert packs(loaded, 512)
    assert not packs(loaded, 513)
    config.rope_parameters = {"rope_type": "dynamic"}
    assert not packs(loaded, 512)
    config.rope_parameters = {"rope_type": "default"}
    config.layer_types = ["full_attention", "sliding_attention"]
    assert not packs(loaded, 512)


def test_the_cache_has_the_shape_of_the_models_heads() -> None:
    assert cache_shape(load_model("tiny/llama")) == (2, 2, 16, 16)
    assert cache_shape(load_model("tiny/deepseek_v3")) == (2, 1, 40, 0)
