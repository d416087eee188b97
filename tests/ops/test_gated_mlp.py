import pytest
import torch

from seektune.ops.gated_mlp import gated_mlp, gated_mlp_reference
from seektune.ops.lora_linear import Projection

H, N, R = 12, 20, 4


def problem(*shape, dtype=torch.float64, targets=(0, 1, 2), dropout=0.0, bias=False, sizes=(H, N, R)):
    """x and the three projections; those in `targets` have a low-rank term, in float32 at least."""
    h, n, r = sizes
    rng = torch.Generator().manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)

    def make(*size, dtype=dtype):
        return (torch.randn(*size, generator=rng, dtype=torch.float64) / size[-1] ** 0.5).to(dtype)

    projections = []
    for i, (n_in, n_out) in enumerate(((h, n), (h, n), (n, h))):
        base = Projection(make(n_out, n_in), make(n_out) if bias else None)
        a, b = make(r, n_in, dtype=wide).requires_grad_(), make(n_out, r, dtype=wide).requires_grad_()
        projections.append(
            base._replace(lora_a=a, lora_b=b, scaling=1.5, dropout=dropout) if i in targets else base
        )
    return make(*shape, h).requires_grad_(), projections


def run(op, x, projections):
    """The output and the gradients of x and every factor."""
    torch.manual_seed(7)
    y = op(x, *projections)
    factors = [t for p in projections for t in (p.lora_a, p.lora_b) if t is not None]
    upstream = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y).to(y.dtype)
    return [y, *torch.autograd.grad(y, [x, *factors], upstream)]


@pytest.mark.parametrize("shape", [(7,), (2, 3), (1,), (0,)])
@pytest.mark.parametrize("targets", [(0, 1, 2), (2,), (0,), (1, 2), ()])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_it_equals_the_formula_in_float64(shape, targets, dropout):
    inputs = problem(*shape, targets=targets, dropout=dropout, bias=True)
    torch.testing.assert_close(run(gated_mlp, *inputs), run(gated_mlp_reference, *inputs), rtol=0, atol=1e-10)


def test_gradients_agree_with_finite_differences():
    x, (gate, up, down) = problem(3)
    factors = (gate.lora_a, gate.lora_b, up.lora_a, up.lora_b, down.lora_a, down.lora_b)

    def op(x, *f):
        pairs = zip((gate, up, down), f[::2], f[1::2], strict=True)
        return gated_mlp(x, *(p._replace(lora_a=a, lora_b=b) for p, a, b in pairs))

    assert torch.autograd.gradcheck(op, (x, *factors))


def total_error(got, truth):
    """Relative errors summed: each alone differs by 20 % from one order of summation to the next."""
    return sum(((g - t).norm() / t.norm()).item() for g, t in zip(got, truth, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_worse_than_plain_torch(dtype):
    x, projections = problem(1000, dtype=dtype, sizes=(64, 160, 8))  # small ones drown in chance

    def exact(t):
        return t.detach().double().requires_grad_(t.requires_grad) if isinstance(t, torch.Tensor) else t

    truth = run(gated_mlp_reference, exact(x), [Projection(*map(exact, p)) for p in projections])
    ours, plain = (total_error(run(op, x, projections), truth) for op in (gated_mlp, gated_mlp_reference))
    assert ours <= 1.1 * plain


def test_only_the_input_gate_up_and_low_rank_products_are_kept():
    x, projections = problem(50)
    known = {t.data_ptr() for t in (x, *(t for p in projections for t in p[:4] if t is not None))}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        gated_mlp(x, *projections)
    shapes = [tuple(t.shape) for t in kept if t.data_ptr() not in known]
    assert sorted(shapes) == sorted([(50, N), (50, N), (50, 2 * R), (50, R)])


def test_an_input_without_gradient_gets_none_and_the_factors_get_theirs():
    x, projections = problem(5)
    y = gated_mlp(x.detach(), *projections)
    y.sum().backward()
    assert all(p.lora_b.grad.any() for p in projections)
    assert x.grad is None


def test_autocast_computes_in_bfloat16():
    x, projections = problem(5, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, dx, *factors = run(gated_mlp, x, projections)
        plain = run(gated_mlp_reference, x, projections)
    assert y.dtype == torch.bfloat16
    assert {t.dtype for t in (dx, *factors)} == {torch.float32}
    torch.testing.assert_close([y, dx, *factors], plain, rtol=5e-2, atol=5e-2)


def test_a_trainable_base_is_refused():
    x, (gate, up, down) = problem(3)
    down.weight.requires_grad_()
    with pytest.raises(ValueError, match="freeze it"):
        gated_mlp(x, gate, up, down)
