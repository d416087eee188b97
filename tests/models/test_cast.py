from __future__ import annotations

import pytest
import torch

from seektune.models.cast import cast
from seektune.models.tiny import TINY, tiny_model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", TINY)
def test_a_cast_model_is_what_from_pretrained_gives(name: str, dtype: torch.dtype) -> None:
    model, _ = tiny_model(name)
    loaded = type(model).from_pretrained(
        None, config=model.config, state_dict=model.state_dict(), dtype=dtype
    )
    cast(model, dtype)
    expected = loaded.state_dict()
    for key, tensor in model.state_dict().items():
        assert tensor.dtype == expected[key].dtype, key
        assert torch.equal(tensor, expected[key]), key
    assert [b.dtype for b in model.buffers()] == [b.dtype for b in loaded.buffers()]


@pytest.mark.parametrize("name", TINY)
def test_in_float64_everything_stored_is_float64(name: str) -> None:
    model, _ = tiny_model(name)
    cast(model, torch.float64)
    dtypes = {tensor.dtype for tensor in model.state_dict().values() if tensor.is_floating_point()}
    assert dtypes == {torch.float64}


def test_parameters_stay_the_same_objects() -> None:
    model, _ = tiny_model("deepseek_v3")
    before = list(map(id, model.parameters()))
    cast(model, torch.float64)
    assert list(map(id, model.parameters())) == before
