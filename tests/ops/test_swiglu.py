import pytest
import torch

from seektune.ops.swiglu import swiglu, swiglu_reference


def problem(*shape, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    gate, up, grad = (torch.randn(*shape, generator=rng, dtype=torch.float64).to(dtype) for _ in range(3))
    return gate.requires_grad_(), up.requires_grad_(), grad


def run(op, gate, up, grad):
    y = op(gate, up)
    return [y, *torch.autograd.grad(y, (gate, up), grad)]


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 4), (1, 1), (0, 4)])
def test_it_equals_the_formula_in_float64(shape):
    inputs = problem(*shape)
    torch.testing.assert_close(run(swiglu, *inputs), run(swiglu_reference, *inputs), rtol=0, atol=1e-10)


def test_gradients_agree_with_finite_differences():
    gate, up, _ = problem(3, 4)
    assert torch.autograd.gradcheck(swiglu, (gate, up))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_worse_than_plain_torch(dtype):
    inputs = problem(300, 8, dtype=dtype)
    exact = [t.detach().double().requires_grad_(t.requires_grad) for t in inputs]
    truth = run(swiglu_reference, *exact)
    for got, plain, want in zip(run(swiglu, *inputs), run(swiglu_reference, *inputs), truth, strict=True):
        assert (got - want).norm() <= 1.1 * (plain - want).norm() + torch.finfo(dtype).eps / 8 * want.norm()


def test_only_gate_and_up_are_kept():
    gate, up, _ = problem(5, 6)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        swiglu(gate, up)
    assert {t.data_ptr() for t in kept} == {gate.data_ptr(), up.data_ptr()}
