import pytest
import torch

from seektune.ops.expert_routing import draw_masks, drop, gate_vjp, gated, sort_by_expert

LORA = (torch.zeros(2, 3, 500), torch.zeros(2, 8, 3), torch.zeros(2, 3, 400), torch.zeros(2, 500, 3))


def test_rows_come_in_the_order_of_their_experts_and_within_one_in_the_order_of_tokens():
    index = torch.tensor([[2, 0], [1, 2], [0, 1]])
    order, tokens = sort_by_expert(index)
    assert index.flatten()[order].tolist() == [0, 0, 1, 1, 2, 2]
    assert tokens.tolist() == [0, 2, 1, 2, 0, 1]


def test_masks_keep_the_asked_share_and_take_a_byte_per_element():
    torch.manual_seed(0)
    masks = draw_masks(LORA, 100, 0.25)
    assert [tuple(mask.shape) for mask in masks] == [(100, 500), (100, 400)]
    for mask in masks:
        assert mask.element_size() == 1
        assert mask.double().mean().item() == pytest.approx(0.75, abs=0.01)


def test_without_dropout_there_are_no_masks_and_nothing_changes():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert draw_masks(LORA, 100, 0.0) == (None, None)
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.ones(3)
    assert drop(x, None, 0.0) is x


def test_kept_elements_are_scaled_up_so_that_the_mean_stays():
    keep = torch.tensor([True, False, True, True])
    assert torch.allclose(drop(torch.ones(4), keep, 0.25), torch.tensor([4 / 3, 0, 4 / 3, 4 / 3]))


@pytest.mark.parametrize(
    "gate", [None, lambda gate_up: torch.tanh(gate_up[:, :5]) * gate_up[:, 5:].clamp(max=0.2)]
)
def test_the_gate_and_its_gradient_are_what_autograd_says(gate):
    gate_up = torch.randn(
        7, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ).requires_grad_()
    act, backward = gate_vjp(gate_up.detach(), gate)
    wanted = gated(gate_up, gate)
    upstream = torch.linspace(-1, 1, 35, dtype=torch.float64).view(7, 5)
    torch.testing.assert_close(act, wanted.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(
        backward(upstream), torch.autograd.grad(wanted, gate_up, upstream)[0], rtol=0, atol=1e-12
    )


def test_the_default_gate_is_silu_of_the_first_half_times_the_second():
    gate_up = torch.tensor([[1.0, -2.0, 3.0, 4.0]])
    g, u = gate_up.chunk(2, -1)
    assert torch.allclose(gated(gate_up, None), g * torch.sigmoid(g) * u)
