import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from seektune.ops.lora_linear import Projection, lora_linear, lora_linear_reference, lora_linears

N_IN, N_OUT, R = 12, 10, 4


def leaves(*shape_x, dtype=torch.float64, bias=True, seed=0):
    """x, W, bias, A, B; all but W and bias are leaves that want a gradient."""
    rng = torch.Generator().manual_seed(seed)
    make = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype)  # noqa: E731
    x, a, b = (
        make(*shape_x, N_IN).requires_grad_(),
        make(R, N_IN).requires_grad_(),
        make(N_OUT, R).requires_grad_(),
    )
    return x, make(N_OUT, N_IN), make(N_OUT) if bias else None, a, b


def run(op, inputs, scaling=1.5, dropout=0.0):
    """The output and the gradients of x, A, B for one fixed upstream gradient."""
    torch.manual_seed(7)
    y = op(*inputs, scaling, dropout)
    upstream = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).to(y.dtype)
    wanted = [inputs[i] for i in (0, 3, 4)]
    return [y, *torch.autograd.grad(y, wanted, upstream)]


def error(got, truth):
    return ((got.double() - truth).norm() / truth.norm()).item()


@pytest.mark.parametrize("shape", [(7,), (2, 5), (1,), (1, 1)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_it_equals_the_formula_in_float64(shape, bias, dropout):
    inputs = leaves(*shape, bias=bias)
    for got, want in zip(
        run(lora_linear, inputs, dropout=dropout),
        run(lora_linear_reference, inputs, dropout=dropout),
        strict=True,
    ):
        assert got.shape == want.shape
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def test_gradients_agree_with_finite_differences():
    x, weight, bias, a, b = leaves(5)
    assert torch.autograd.gradcheck(lambda x, a, b: lora_linear(x, weight, bias, a, b, 0.5), (x, a, b))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_rounding_is_no_worse_than_plain_torch(dtype, dropout):
    inputs = leaves(64, dtype=dtype)
    exact = [None if t is None else t.detach().double().requires_grad_(t.requires_grad) for t in inputs]
    truth = run(lora_linear_reference, exact, dropout=dropout)
    ours, plain = (run(op, inputs, dropout=dropout) for op in (lora_linear, lora_linear_reference))
    # Orders of summation, and with them float32's errors, differ from processor to processor by half.
    most = 2 if dtype == torch.float32 else 1.1
    for got, other, want in zip(ours, plain, truth, strict=True):
        assert (
            error(got.detach(), want.detach())
            <= most * error(other.detach(), want.detach()) + torch.finfo(dtype).eps / 2
        )


def test_float32_factors_on_a_bfloat16_base_get_float32_gradients():
    x, weight, bias, *_ = leaves(6, dtype=torch.bfloat16)
    *_, a, b = leaves(6, dtype=torch.float32)
    y, dx, da, db = run(lora_linear, (x, weight, bias, a, b))
    assert (y.dtype, dx.dtype, da.dtype, db.dtype) == (
        torch.bfloat16,
        torch.bfloat16,
        torch.float32,
        torch.float32,
    )


def test_an_empty_input_gives_empty_output_and_zero_gradients():
    y, dx, da, db = run(lora_linear, leaves(0))
    assert y.shape == (0, N_OUT)
    assert dx.shape == (0, N_IN)
    assert not da.any()
    assert not db.any()


def test_autocast_computes_in_bfloat16_and_returns_gradients_in_float32():
    inputs = leaves(6, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = lora_linear(*inputs, 1.0)
        plain = lora_linear_reference(*inputs, 1.0)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, plain, rtol=2e-2, atol=2e-2)
    y.float().sum().backward()
    assert inputs[0].grad.dtype == inputs[3].grad.dtype == torch.float32


def test_dropout_is_seeded_scales_what_it_keeps_and_leaves_the_base_alone():
    x, weight, _, a, b = leaves(400, bias=False)
    torch.manual_seed(3)
    first = lora_linear(x, weight, None, a, b, 1.0, 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, lora_linear(x, weight, None, a, b, 1.0, 0.5))
    assert not torch.equal(first, lora_linear(x, weight, None, a, b, 1.0, 0.5))
    assert torch.equal(lora_linear(x, weight, None, a, torch.zeros_like(b), 1.0, 0.5), x @ weight.T)
    ones = torch.ones(4000, N_IN, dtype=torch.float64)
    low = lora_linear(
        ones,
        torch.zeros(1, N_IN).double(),
        None,
        torch.ones(1, N_IN).double(),
        torch.ones(1, 1).double(),
        1.0,
        0.5,
    )
    assert low.mean().item() == pytest.approx(N_IN, rel=0.05)


def test_only_the_input_and_the_low_rank_product_are_kept():
    x, weight, bias, a, b = leaves(50)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        lora_linear(x, weight, bias, a, b, 1.0)
    known = {t.data_ptr() for t in (x, weight, bias, a, b)}
    assert [tuple(t.shape) for t in kept if t.data_ptr() not in known] == [(50, R)]


def test_nothing_is_computed_for_an_input_that_needs_no_gradient():
    x, weight, bias, a, b = leaves(5)
    y = lora_linear(x.detach(), weight, bias, a.detach(), b, 1.0)
    assert [n is None for n, _ in y.grad_fn.next_functions].count(False) == 1
    y.sum().backward()
    assert b.grad is not None
    assert a.grad is None


def test_joined_projections_equal_single_ones_with_and_without_a_low_rank_term():
    x, weight, bias, a, b = leaves(9)
    _, weight2, _, a2, b2 = leaves(9, seed=1)
    joined = [
        Projection(weight, bias, a, b, 0.5, 0.2),
        Projection(weight2),
        Projection(weight2, None, a2, b2, 2.0),
    ]
    torch.manual_seed(0)
    outputs = lora_linears(x, joined)
    grads = torch.autograd.grad(sum(y.square().sum() for y in outputs), [x, a, b, a2, b2])
    torch.manual_seed(0)
    single = [
        lora_linear_reference(x, weight, bias, a, b, 0.5, 0.2),
        x @ weight2.T,
        lora_linear_reference(x, weight2, None, a2, b2, 2.0),
    ]
    expected = torch.autograd.grad(sum(y.square().sum() for y in single), [x, a, b, a2, b2])
    torch.testing.assert_close([*outputs, *grads], [*single, *expected], rtol=0, atol=1e-10)


def test_a_trainable_or_differently_typed_base_is_refused():
    x, weight, bias, a, b = leaves(3)
    with pytest.raises(ValueError, match="freeze it"):
        lora_linear(x, weight.requires_grad_(), bias, a, b, 1.0)
    with pytest.raises(ValueError, match="one dtype"):
        lora_linear(x.float(), weight.detach(), bias, a, b, 1.0)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_frozen_factors_cost_no_product_and_change_no_other_gradient(dropout):
    def backward(frozen):
        x, weight, bias, a, b = leaves(5)
        for leaf, rests in ((a, frozen), (b, frozen)):
            leaf.requires_grad_(not rests)
        torch.manual_seed(7)
        y = lora_linear(x, weight, bias, a, b, 1.5, dropout)
        with FlopCounterMode(display=False) as counter:
            y.sum().backward()
        return x.grad, a.grad, b.grad, counter.get_total_flops()

    (dx, da, db, all_flops), (dx_alone, *none, flops) = backward(False), backward(True)
    assert torch.equal(dx_alone, dx)
    assert none == [None, None]
    assert all_flops - flops == 2 * 5 * R * (N_IN + N_OUT)
    assert da is not None
    assert db is not None
