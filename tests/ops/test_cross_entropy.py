import pytest
import torch

from seektune.ops import cross_entropy as module
from seektune.ops.cross_entropy import cross_entropy, cross_entropy_reference
from seektune.types import IGNORE

H, V = 16, 50


def problem(tokens=23, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, H, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(V, H, generator=rng, dtype=torch.float64).to(dtype)
    targets = torch.randint(V, (tokens,), generator=rng)
    targets[::3] = IGNORE
    return hidden, weight, targets


def run(op, hidden, weight, targets):
    log_probs = op(hidden, weight, targets)
    upstream = torch.linspace(-2, 1, len(targets), dtype=log_probs.dtype)
    return log_probs, torch.autograd.grad(log_probs, hidden, upstream)[0]


@pytest.mark.parametrize("chunk_elements", [1, 3 * V, 10**6])
@pytest.mark.parametrize("tokens", [0, 1, 2, 23])
def test_it_equals_the_formula_in_float64_whatever_the_chunk(monkeypatch, tokens, chunk_elements):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", chunk_elements)
    inputs = problem(tokens)
    torch.testing.assert_close(
        run(cross_entropy, *inputs), run(cross_entropy_reference, *inputs), rtol=0, atol=1e-10
    )


def test_gradients_agree_with_finite_differences():
    hidden, weight, targets = problem(6)
    assert torch.autograd.gradcheck(lambda h: cross_entropy(h, weight, targets), (hidden,))


# In bfloat16 the gradient is rounded before the loss weight is known and once more after: √(3/2) at most.
@pytest.mark.parametrize(("dtype", "factor"), [(torch.float32, 1.1), (torch.bfloat16, 1.23)])
def test_rounding_is_no_worse_than_plain_torch(dtype, factor):
    hidden, weight, targets = problem(300, dtype)
    truth = run(cross_entropy_reference, hidden.detach().double().requires_grad_(), weight.double(), targets)
    ours, plain = (run(op, hidden, weight, targets) for op in (cross_entropy, cross_entropy_reference))
    for got, other, want in zip(ours, plain, truth, strict=True):
        assert (got - want).norm() <= factor * (other - want).norm()


def test_a_row_without_any_target_costs_nothing_and_has_zero_gradient():
    hidden, weight, targets = problem()
    log_probs, gradient = run(cross_entropy, hidden, weight, torch.full_like(targets, IGNORE))
    assert not log_probs.any()
    assert not gradient.any()


def test_log_probs_are_float32_for_half_precision_and_0_where_ignored():
    hidden, weight, targets = problem(dtype=torch.bfloat16)
    log_probs = cross_entropy(hidden, weight, targets)
    assert log_probs.dtype == torch.float32
    assert (log_probs[targets == IGNORE] == 0).all()
    assert (log_probs[targets != IGNORE] < 0).all()


def test_the_full_logit_matrix_never_exists(monkeypatch):
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 4 * V)
    hidden, weight, targets = problem(40)
    with torch.profiler.profile(profile_memory=True) as profile:
        run(cross_entropy, hidden, weight, targets)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < 40 * V * 8 / 2


def test_without_gradients_only_log_probs_are_computed():
    hidden, weight, targets = problem()
    with torch.no_grad():
        silent = cross_entropy(hidden, weight, targets)
    assert torch.equal(silent, cross_entropy(hidden, weight, targets))


def test_autocast_computes_logits_in_bfloat16_as_plain_torch_does():
    hidden, weight, targets = problem(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            run(cross_entropy, hidden, weight, targets),
            run(cross_entropy_reference, hidden, weight, targets),
            rtol=2e-2,
            atol=2e-2,
        )


def test_a_trainable_head_is_refused():
    hidden, weight, targets = problem()
    with pytest.raises(ValueError, match="freeze it"):
        cross_entropy(hidden, weight.requires_grad_(), targets)
