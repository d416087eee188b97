from __future__ import annotations

import copy

import pytest
import torch
from engine_runs import far_adapter, logits_in_steps, prompts

from seektune.models.load import load_model

NAMES = ["deepseek_v2", "deepseek_v2_lite", "deepseek_v3"]
TOLERANCE = 1e-6  # V2 rotates and routers compute in float32 even in a float64 model


@pytest.mark.parametrize("targets", [None, ["kv_b_proj"], "all-linear"])
@pytest.mark.parametrize("name", NAMES)
def test_absorbed_equals_expanded_with_a_delta_on_the_projection_and_without(
    name: str, targets: object
) -> None:
    """First tokens expanded, a wide chunk expanded from the cache, a narrow one and single ones absorbed."""
    loaded = load_model(f"tiny/{name}", dtype="float64")
    if targets is not None:
        far_adapter(loaded, target_modules=targets)
    (ids,) = prompts([100])
    cuts = [30, 50, 17, 1, 1, 1]
    ends = torch.tensor(cuts).cumsum(0) - 1
    with torch.no_grad():
        whole = loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, ends]
    torch.testing.assert_close(logits_in_steps(loaded, ids, cuts), whole, rtol=0, atol=TOLERANCE)


def test_rotation_by_halves_is_followed_too() -> None:
    loaded = load_model("tiny/deepseek_v3", dtype="float64")
    config = copy.deepcopy(loaded.model.config)
    config.rope_interleave = False
    for module in loaded.model.modules():
        if hasattr(module, "config"):
            module.config = config
    (ids,) = prompts([20])
    with torch.no_grad():
        whole = loaded.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, [10, 19]]
    torch.testing.assert_close(logits_in_steps(loaded, ids, [11, 9]), whole, rtol=0, atol=TOLERANCE)
