import pytest
import torch

from seektune.ops import packed_attention_blocks as blocks
from seektune.ops.packed_attention import packed_attention, packed_attention_reference


def heads(lengths, number=3, width=6, value=4, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    make = lambda d: torch.randn(1, number, sum(lengths), d, generator=rng, dtype=torch.float64)  # noqa: E731
    return [make(d).to(dtype).requires_grad_() for d in (width, width, value)]


def run(op, lengths, q, k, v):
    out = op(q, k, v, lengths, 0.3)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out.dtype)
    return [out, *torch.autograd.grad(out, (q, k, v), upstream)]


def reference(q, k, v, lengths, scaling):
    return packed_attention_reference(q, k, v, torch.tensor([0, *lengths]).cumsum(0), scaling)


def torchs(q, k, v, lengths, scaling):
    return packed_attention(q, k, v, torch.tensor([0, *lengths]).cumsum(0), scaling)


@pytest.mark.parametrize("lengths", [[1], [64], [65], [130], [70, 1, 0, 128, 9], [0], []])
@pytest.mark.parametrize("value", [4, 6, 9])
def test_it_equals_a_block_diagonal_mask_in_float64(lengths, value):
    inputs = heads(lengths, value=value)
    got, want = (run(op, lengths, *inputs) for op in (blocks.packed_attention_blocks, reference))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


def test_gradients_agree_with_finite_differences(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK_ROWS", 2)
    inputs = heads([5, 2], number=2, width=3, value=2)
    assert torch.autograd.gradcheck(
        lambda q, k, v: blocks.packed_attention_blocks(q, k, v, [5, 2], 0.3), inputs
    )


def test_rounding_is_no_worse_than_torchs_kernel():
    lengths = [150, 40]  # with values as wide as keys packed_attention is torch's kernel
    inputs = heads(lengths, dtype=torch.float32, width=16, value=16)
    truth = run(reference, lengths, *(x.detach().double().requires_grad_() for x in inputs))
    ours, plain = (run(op, lengths, *inputs) for op in (blocks.packed_attention_blocks, torchs))
    for got, other, want in zip(ours, plain, truth, strict=True):
        slack = torch.finfo(torch.float32).eps / 8 * want.norm()
        # Orders of summation, and with them both errors, differ from processor to processor.
        assert (got - want).norm() <= 1.5 * (other - want).norm() + slack


def test_heads_laid_out_in_any_way_are_read_where_they_are():
    q, k, v = heads([100])
    turned = [x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in (q, k, v)]
    got, want = (run(blocks.packed_attention_blocks, [100], *inputs) for inputs in (turned, (q, k, v)))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_large_scores_do_not_overflow():
    q, k, v = heads([80], dtype=torch.float32)
    out = blocks.packed_attention_blocks(q * 1e4, k, v, [80], 1.0)
    assert out.isfinite().all()
