from __future__ import annotations

import pytest
import torch
from engine_runs import far_adapter, logits_in_steps, prompts
from torch import nn

from seektune.models.load import load_model


class OtherLinear(nn.Linear):
    """Not a plain one, so that it is not joined with its neighbours."""


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_over_pages_equals_the_models_own_attention(name: str, adapted: bool, apart: bool) -> None:
    """First tokens together, a chunk behind them, and single ones."""
    loaded = load_model(f"tiny/{name}", dtype="float64")
    if adapted:
        far_adapter(loaded)
    if apart:
        for module in loaded.model.modules():
            if type(module) is nn.Linear:
                module.__class__ = OtherLinear
    (ids,) = prompts([60])
    cuts = [30, 17, 11, 1, 1]
    ends = torch.tensor(cuts).cumsum(0) - 1
    with torch.no_grad():
        whole = loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, ends]
    torch.testing.assert_close(logits_in_steps(loaded, ids, cuts), whole, rtol=0, atol=1e-9)
