import pytest
import torch
from transformers.models.deepseek_v2.modeling_deepseek_v2 import apply_rotary_emb

from seektune.ops.latent_heads import latent_heads, latent_heads_reference


def problem(rows=2, tokens=5, heads=3, nope=6, rope=4, value=5, dtype=torch.float64, angle_rows=None):
    """q, kv, k_rope and factors that are no pure turns: nothing is relied on but that they multiply."""
    rng = torch.Generator().manual_seed(0)
    make = lambda *shape: torch.randn(*shape, generator=rng, dtype=torch.float64)  # noqa: E731
    factors = torch.view_as_complex(make(angle_rows or rows, tokens, rope // 2, 2))
    inputs = make(rows, tokens, heads, nope + rope), make(rows, tokens, heads, nope + value)
    leaves = [x.to(dtype).requires_grad_() for x in (*inputs, make(rows, tokens, rope))]
    return *leaves, factors if dtype == torch.float64 else factors.to(torch.complex64)


def run(op, *inputs):
    outputs = op(*inputs)
    upstream = [torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype) for y in outputs]
    return [*outputs, *torch.autograd.grad(outputs, inputs[:3], upstream)]


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"angle_rows": 1},
        {"rows": 1, "tokens": 1, "heads": 1},
        {"tokens": 0},
        {"value": 12},
        {"rope": 2, "value": 1},
    ],
)
def test_it_equals_the_formula_in_float64(shape):
    inputs = problem(**shape)
    got, want = run(latent_heads, *inputs), run(latent_heads_reference, *inputs)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def test_gradients_agree_with_finite_differences():
    *leaves, factors = problem(rows=1, tokens=2, heads=2)
    assert torch.autograd.gradcheck(lambda *x: latent_heads(*x, factors), leaves)


def test_the_rotation_is_transformers_own():
    q, kv, k_rope, factors = problem(dtype=torch.float32)
    theirs_q, theirs_k = apply_rotary_emb(q[..., 6:].transpose(1, 2), k_rope[:, None], factors)
    ours_q, ours_k, _ = latent_heads(q, kv, k_rope, factors)
    torch.testing.assert_close(ours_q[..., 6:], theirs_q.transpose(1, 2))
    torch.testing.assert_close(ours_k[..., 6:], theirs_k.transpose(1, 2).expand(-1, -1, 3, -1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_worse_than_plain_torch(dtype):
    *leaves, factors = problem(tokens=100, dtype=dtype)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    truth = run(latent_heads_reference, *exact, factors.to(torch.complex128))
    ours, plain = (run(op, *leaves, factors) for op in (latent_heads, latent_heads_reference))
    for got, other, want in zip(ours, plain, truth, strict=True):
        assert got.dtype == dtype
        assert (got - want).norm() <= 1.1 * (other - want).norm() + torch.finfo(dtype).eps / 8 * want.norm()


def test_inputs_are_left_as_they_were():
    *leaves, factors = problem()
    before = [x.detach().clone() for x in leaves]
    run(latent_heads, *leaves, factors)
    assert all(torch.equal(x, old) for x, old in zip(leaves, before, strict=True))


def test_gradients_that_are_given_are_left_as_they_were():
    *leaves, factors = problem()
    outputs = latent_heads(*leaves, factors)
    upstream = [torch.ones_like(y) for y in outputs]
    torch.autograd.grad(outputs, leaves, upstream)
    assert all(torch.equal(grad, torch.ones_like(grad)) for grad in upstream)
