import pytest
import torch
import torch.nn.functional as F

from seektune.ops.packed_attention import packed_attention, packed_attention_reference


def heads(lengths, query=4, kv=4, width=8, value=8, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    tokens = sum(lengths)
    make = lambda n, d: (  # noqa: E731
        torch.randn(1, n, tokens, d, generator=rng, dtype=torch.float64).to(dtype).requires_grad_()
    )
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    return make(query, width), make(kv, width), make(kv, value), bounds


def run(op, q, k, v, bounds):
    out = op(q, k, v, bounds, 0.3)
    upstream = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape).to(out.dtype)
    return [out, *torch.autograd.grad(out, (q, k, v), upstream)]


@pytest.mark.parametrize("lengths", [[5, 1, 9], [1], [6], [3, 0, 2], [1, 1, 1]])
@pytest.mark.parametrize("shape", [{}, {"kv": 2}, {"kv": 1}, {"width": 12, "value": 8}])
def test_it_equals_a_block_diagonal_mask_in_float64(lengths, shape):
    inputs = heads(lengths, **shape)
    torch.testing.assert_close(
        run(packed_attention, *inputs), run(packed_attention_reference, *inputs), rtol=0, atol=1e-10
    )


def masked_sdpa(q, k, v, bounds, scaling):
    sequence = torch.repeat_interleave(torch.arange(len(bounds) - 1), bounds.diff().long())
    mask = (sequence[:, None] == sequence[None, :]).tril()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scaling, enable_gqa=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_worse_than_torch_with_a_mask(dtype):
    q, k, v, bounds = heads([40, 25], kv=2, dtype=dtype)
    exact = [t.detach().double().requires_grad_() for t in (q, k, v)]
    truth = run(packed_attention_reference, *exact, bounds)
    ours, plain = (run(op, q, k, v, bounds) for op in (packed_attention, masked_sdpa))
    for got, other, want in zip(ours, plain, truth, strict=True):
        assert (got - want).norm() <= 1.1 * (other - want).norm() + torch.finfo(dtype).eps / 8 * want.norm()


def test_each_sequence_is_as_if_it_were_alone():
    q, k, v, bounds = heads([5, 7])
    alone = F.scaled_dot_product_attention(q[:, :, 5:], k[:, :, 5:], v[:, :, 5:], is_causal=True, scale=0.3)
    torch.testing.assert_close(packed_attention(q, k, v, bounds, 0.3)[:, :, 5:], alone, rtol=0, atol=1e-12)


def test_gradients_agree_with_finite_differences():
    q, k, v, bounds = heads([3, 2], query=2, kv=1, width=4, value=2)
    assert torch.autograd.gradcheck(lambda q, k, v: packed_attention(q, k, v, bounds, 0.3), (q, k, v))


def test_an_empty_row_gives_an_empty_output():
    out, dq, *_ = run(packed_attention, *heads([0]))
    assert out.shape == dq.shape == (1, 4, 0, 8)


def test_dropout_is_seeded():
    q, k, v, bounds = heads([6, 6])
    outputs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outputs.append(packed_attention(q, k, v, bounds, 0.3, dropout=0.5))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_the_output_needs_no_copy_to_join_its_heads():
    assert packed_attention(*heads([4, 3]), 0.3).transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_values_in_any_precision_and_with_dropout_are_finite_and_keep_their_dtype(dtype, dropout):
    q, k, v, bounds = heads([70, 3], width=12, value=8, dtype=dtype)
    out = packed_attention(q, k, v, bounds, 0.3, dropout=dropout)
    assert out.dtype == dtype
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(out.sum(), (q, k, v)))


def test_narrow_values_under_autocast_are_attended_in_its_dtype():
    q, k, v, bounds = heads([70, 3], width=12, value=8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert packed_attention(q, k, v, bounds, 0.3).dtype == torch.bfloat16
