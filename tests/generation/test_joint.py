"""Linears laid side by side: the same parameters and values, one product, each one's own low-rank terms."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from engine_runs import far_adapter
from torch import nn

from seektune.adapters.wrap import AdaptedLinear
from seektune.errors import ModelError
from seektune.generation.joint import JointLinear, join
from seektune.models.load import load_model


def linears(bias: bool) -> list[nn.Linear]:
    return [nn.Linear(6, width, bias=bias, dtype=torch.float64) for width in (5, 2, 3)]


def separately(x: torch.Tensor, parts: Sequence[nn.Module]) -> torch.Tensor:
    return torch.cat([part(x) for part in parts], dim=-1)


@pytest.mark.parametrize("bias", [False, True])
def test_parameters_stay_the_same_objects_with_the_same_values_and_share_one_memory(bias: bool) -> None:
    parts = linears(bias)
    before = [(parameter, parameter.detach().clone()) for part in parts for parameter in part.parameters()]
    joint = JointLinear(parts)
    after = [parameter for part in parts for parameter in part.parameters()]
    assert all(
        one is other and torch.equal(one, value) for one, (other, value) in zip(after, before, strict=True)
    )
    assert len({parameter.untyped_storage().data_ptr() for parameter in after}) == 1 + bias
    x = torch.randn(4, 6, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(joint(x, parts), separately(x, parts))


def test_linears_that_are_joint_already_are_not_moved_again() -> None:
    parts = linears(bias=True)
    first, second = JointLinear(parts), JointLinear(parts)
    assert first.weight.data_ptr() == second.weight.data_ptr()
    assert second.weight.shape == (10, 6)
    assert second.bias is not None
    assert second.bias.shape == (10,)


def test_what_is_written_to_a_weight_later_is_used_and_what_replaces_it_is_refused() -> None:
    parts = linears(bias=False)
    joint = JointLinear(parts)
    x = torch.randn(4, 6, dtype=torch.float64)
    with torch.no_grad():
        parts[1].weight.mul_(2)
        torch.testing.assert_close(joint(x, parts), separately(x, parts))
        for part in parts:
            joined = part.weight.data
            part.weight.data = joined.clone()
            with pytest.raises(ModelError, match="make a new engine"):
                joint(x, parts)
            part.weight.data = joined
        joint(x, parts)


def test_an_adapter_attached_later_is_in_the_joint_product() -> None:
    loaded = load_model("tiny/llama", dtype="float64")
    mlp = loaded.model.model.layers[0].mlp
    joint = join(mlp.gate_proj, mlp.up_proj)
    assert joint is not None
    far_adapter(loaded)
    parts = (mlp.gate_proj, mlp.up_proj)
    assert all(isinstance(part, AdaptedLinear) for part in parts)
    x = torch.randn(4, mlp.gate_proj.in_features, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(joint(x, parts), separately(x, parts))
        assert not torch.allclose(joint(x, parts), separately(x, [part.base_layer for part in parts]))


def test_other_modules_widths_dtypes_and_a_bias_for_some_are_not_joined() -> None:
    plain = nn.Linear(6, 5)
    assert join(plain, nn.Linear(6, 3)) is not None
    others = [
        nn.Identity(),
        nn.Linear(7, 5),
        nn.Linear(6, 5, dtype=torch.float64),
        nn.Linear(6, 5, bias=False),
    ]
    assert [join(plain, other) for other in others] == [None] * 4
