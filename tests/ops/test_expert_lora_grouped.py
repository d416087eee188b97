"""The CUDA path, run on the CPU: torch has grouped products there too."""

import pytest
import torch

from seektune.ops.expert_lora import expert_lora, expert_lora_reference
from seektune.ops.expert_lora_grouped import expert_lora_grouped, grouped_fits
from seektune.ops.expert_lora_loop import expert_lora_loop

T, H, I, E, K, S = 30, 32, 24, 6, 3, 0.7  # noqa: E741 (the field's letters)
SUBSET = [-1, 0, -1, 1, 2, -1]
UNIFORM = torch.randint(E, (T, K), generator=torch.Generator().manual_seed(0))
ROUTINGS = {
    "uniform": UNIFORM,
    "one expert": torch.full((T, K), 3),
    "some without expert": torch.where(UNIFORM == 0, E, UNIFORM),
    "nobody has an expert": torch.full((T, K), E),
    "one token": UNIFORM[:1],
    "no token": UNIFORM[:0],
}


def clamped(gate_up):
    g, u = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(g.clamp(max=0.3)) * u.clamp(-0.3, 0.3)


def chosen_by_device(hidden, index, weights, gate_up, down, lora, scaling, slots, gate, dropout, dtype):
    return expert_lora(hidden, index, weights, gate_up, down, *lora, scaling, slots, gate, dropout)


def naive(hidden, index, weights, gate_up, down, lora, scaling, slots, gate, dropout, dtype):
    return expert_lora_reference(hidden, index, weights, gate_up, down, *lora, scaling, slots, gate, dropout)


def run(path, index, *, slots=None, rank=3, gate=None, dropout=0.0, dtype=torch.float32, device="cpu"):
    """The output and every gradient, in double."""
    rng = torch.Generator().manual_seed(1)
    n = E if slots is None else max(slots) + 1

    def normal(*shape, dtype=dtype):
        return (torch.randn(*shape, generator=rng, dtype=torch.float64) / shape[-1] ** 0.5).to(device, dtype)

    shapes = [(n, rank, H), (n, 2 * I, rank), (n, rank, I), (n, H, rank)]
    lora = tuple(
        normal(*shape, dtype=max(dtype, torch.float32, key=lambda d: d.itemsize)) for shape in shapes
    )
    hidden, weights, upstream = normal(len(index), H), normal(*index.shape).abs(), normal(len(index), H)
    base = normal(E, 2 * I, H), normal(E, H, I)
    inputs = [hidden, weights, *lora]
    for tensor in inputs:
        tensor.requires_grad_()
    slots = None if slots is None else torch.tensor(slots, device=device)
    torch.manual_seed(0)
    out = path(hidden, index.to(device), weights, *base, lora, S, slots, gate, dropout, dtype)
    return [tensor.double().cpu() for tensor in (out, *torch.autograd.grad(out, inputs, upstream))]


@pytest.mark.parametrize("gate", [None, clamped])
@pytest.mark.parametrize("slots", [None, SUBSET])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_it_equals_the_loop(routing, slots, gate):
    options = {"slots": slots, "gate": gate}
    ours = run(expert_lora_grouped, ROUTINGS[routing], **options)
    truth = run(expert_lora_loop, ROUTINGS[routing], dtype=torch.float64, **options)
    for got, want in zip(ours, truth, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_dropout_draws_the_masks_of_the_loop():
    ours, loop = (run(path, UNIFORM, dropout=0.4) for path in (expert_lora_grouped, expert_lora_loop))
    for got, want in zip(ours, loop, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rank", [2, 4, 8, 12])
def test_any_rank_is_padded_to_the_alignment_and_rounds_no_worse_than_plain_torch(rank):
    index = torch.randint(E, (300, K), generator=torch.Generator().manual_seed(0))
    truth = run(naive, index, rank=rank, dtype=torch.float64)
    ours, plain = (run(path, index, rank=rank, dtype=torch.bfloat16) for path in (expert_lora_grouped, naive))
    for got, other, want in zip(ours, plain, truth, strict=True):
        assert (got - want).norm() <= 1.1 * (other - want).norm()


def test_rows_that_a_grouped_product_leaves_undefined_do_not_leak(monkeypatch):
    original = torch.nn.functional.grouped_mm

    def poisoned(a, b, *, offs):
        out = original(a, b, offs=offs)
        if b.dim() == 3:
            out[offs[-1] :] = torch.nan
        else:
            out[offs.diff(prepend=offs.new_zeros(1)) == 0] = torch.nan
        return out

    index = torch.where(UNIFORM <= 1, E, UNIFORM)
    clean = run(expert_lora_grouped, index)
    monkeypatch.setattr(torch.nn.functional, "grouped_mm", poisoned)
    for got, want in zip(run(expert_lora_grouped, index), clean, strict=True):
        assert torch.equal(got, want)


def test_it_serves_aligned_widths_of_dtypes_with_kernels_only():
    def fits(hidden, width, dtype):
        return grouped_fits(torch.empty(0, hidden), torch.empty(0, 2 * width, hidden), dtype)

    assert fits(32, 24, torch.bfloat16)
    assert fits(4, 4, torch.float32)
    assert not fits(4, 8, torch.bfloat16)
    assert not fits(8, 4, torch.bfloat16)
    assert not fits(32, 32, torch.float64)


@pytest.mark.gpu
@pytest.mark.parametrize("slots", [None, SUBSET])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_on_cuda_it_is_chosen_and_exact(routing, slots):
    index = ROUTINGS[routing]
    ours = run(chosen_by_device, index, slots=slots, dtype=torch.bfloat16, device="cuda")
    truth = run(naive, index, slots=slots, dtype=torch.float64)
    plain = run(naive, index, slots=slots, dtype=torch.bfloat16)
    for got, other, want in zip(ours, plain, truth, strict=True):
        assert (got - want).norm() <= 1.3 * (other - want).norm()
