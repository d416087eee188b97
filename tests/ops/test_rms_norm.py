import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from seektune.ops.rms_norm import rms_norm, rms_norm_reference

H = 24


def problem(*shape, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, H, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
    return x, torch.rand(H, generator=rng, dtype=torch.float64).to(dtype)


def run(op, x, weight):
    y = op(x, weight, 1e-5)
    upstream = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).to(y.dtype)
    return y, torch.autograd.grad(y, x, upstream)[0]


@pytest.mark.parametrize("shape", [(7,), (2, 3), (1,), (0,)])
def test_it_equals_the_formula_in_float64(shape):
    inputs = problem(*shape)
    torch.testing.assert_close(run(rms_norm, *inputs), run(rms_norm_reference, *inputs), rtol=0, atol=1e-10)


def test_gradients_agree_with_finite_differences():
    x, weight = problem(4)
    assert torch.autograd.gradcheck(lambda x: rms_norm(x, weight, 1e-5), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_worse_than_plain_torch(dtype):
    x, weight = problem(200, dtype=dtype)
    truth = run(rms_norm_reference, x.detach().double().requires_grad_(), weight.double())
    for got, plain, want in zip(
        run(rms_norm, x, weight), run(rms_norm_reference, x, weight), truth, strict=True
    ):
        assert (got - want).norm() <= 1.1 * (plain - want).norm()


def test_the_reference_is_transformers_own_norm():
    x, weight = problem(9, dtype=torch.bfloat16)
    norm = LlamaRMSNorm(H, eps=1e-5).to(torch.bfloat16)
    norm.weight.data.copy_(weight)
    assert torch.equal(norm(x), rms_norm_reference(x, weight, 1e-5))


def test_only_the_input_and_one_number_per_row_are_kept():
    x, weight = problem(4)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        rms_norm(x, weight, 1e-5)
    assert sorted(tuple(t.shape) for t in kept) == [(4, 1), (4, H), (H,)]


def test_a_weight_with_zeros_is_right():
    x, weight = problem(4)
    weight[::3] = 0
    torch.testing.assert_close(
        run(rms_norm, x, weight), run(rms_norm_reference, x, weight), rtol=0, atol=1e-10
    )


def test_a_zero_row_has_a_finite_gradient():
    x = torch.zeros(2, H, dtype=torch.float64, requires_grad=True)
    y, dx = run(rms_norm, x, torch.ones(H, dtype=torch.float64))
    assert not y.any()
    assert dx.isfinite().all()


def test_a_float32_weight_on_a_bfloat16_input_gives_float32_as_transformers_does():
    x, weight = problem(5, dtype=torch.bfloat16)
    got, want = run(rms_norm, x, weight.float()), run(rms_norm_reference, x, weight.float())
    assert got[0].dtype == want[0].dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-2)


def test_a_trainable_weight_is_refused():
    x, weight = problem(3)
    with pytest.raises(ValueError, match="freeze it"):
        rms_norm(x, weight.requires_grad_(), 1e-5)
