from __future__ import annotations

import torch
from torch import nn

from seektune.training.optim import adamw


def test_the_first_step_moves_every_parameter_by_the_rate_and_decays_it() -> None:
    parameter = nn.Parameter(torch.tensor([2.0, -3.0, 0.5]))
    optimizer = adamw([parameter], learning_rate=0.1, weight_decay=0.5)
    parameter.grad = torch.tensor([4.0, -0.01, 1e3])
    before = parameter.detach().clone()
    optimizer.step()
    expected = before * (1 - 0.1 * 0.5) - 0.1 * parameter.grad.sign()
    torch.testing.assert_close(parameter.detach(), expected, rtol=0, atol=1e-6)


def test_the_optimiser_state_has_the_parameters_precision() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = adamw([parameter], learning_rate=0.1, weight_decay=0.0)
    parameter.grad = torch.ones(3)
    optimizer.step()
    state = optimizer.state[parameter]
    assert {state["exp_avg"].dtype, state["exp_avg_sq"].dtype} == {torch.float32}


def test_the_fused_kernel_is_used_where_it_exists_and_not_elsewhere() -> None:
    here = adamw([nn.Parameter(torch.ones(1))], learning_rate=1.0, weight_decay=0.0)
    elsewhere = adamw([nn.Parameter(torch.ones(1, device="meta"))], learning_rate=1.0, weight_decay=0.0)
    assert here.defaults["fused"]
    assert not elsewhere.defaults["fused"]
