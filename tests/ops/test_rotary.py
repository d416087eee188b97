import pytest
import torch
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from seektune.ops.rotary import rotary, rotary_reference


def problem(rows=2, tokens=5, heads=3, width=8, dtype=torch.float64):
    """x and independent cos and sin halves: no symmetry between them is relied on."""
    rng = torch.Generator().manual_seed(0)
    make = torch.randn(rows, tokens, heads + 2, width, generator=rng, dtype=torch.float64).to(dtype)
    return make[:, :, :heads].clone().requires_grad_(), make[:, :, -2].clone(), make[:, :, -1].clone()


def run(op, x, cos, sin):
    y = op(x, cos, sin)
    upstream = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).to(y.dtype)
    return y, torch.autograd.grad(y, x, upstream)[0]


@pytest.mark.parametrize("shape", [{}, {"rows": 1, "tokens": 1}, {"tokens": 0}, {"heads": 1, "width": 2}])
def test_it_equals_the_formula_in_float64(shape):
    inputs = problem(**shape)
    torch.testing.assert_close(run(rotary, *inputs), run(rotary_reference, *inputs), rtol=0, atol=1e-10)


def test_gradients_agree_with_finite_differences():
    x, cos, sin = problem()
    assert torch.autograd.gradcheck(lambda x: rotary(x, cos, sin), (x,))


def test_the_reference_is_transformers_own():
    x, cos, sin = problem()
    theirs, _ = apply_rotary_pos_emb(x.transpose(1, 2), x.transpose(1, 2), cos, sin)
    assert torch.equal(theirs.transpose(1, 2), rotary_reference(x, cos, sin))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_worse_than_plain_torch(dtype):
    x, cos, sin = problem(tokens=100, dtype=dtype)
    truth = run(rotary_reference, x.detach().double().requires_grad_(), cos.double(), sin.double())
    for got, plain, want in zip(
        run(rotary, x, cos, sin), run(rotary_reference, x, cos, sin), truth, strict=True
    ):
        assert (got - want).norm() <= 1.1 * (plain - want).norm()


def test_a_half_precision_input_with_float32_angles_gives_float32_as_transformers_does():
    x, cos, sin = problem(dtype=torch.bfloat16)
    got, want = (run(op, x, cos.float(), sin.float()) for op in (rotary, rotary_reference))
    assert (got[0].dtype, got[1].dtype) == (torch.float32, torch.bfloat16)
    torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-2)
