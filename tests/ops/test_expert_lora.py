import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DeepseekV3Config, DeepseekV4Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Experts
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4Experts

from seektune.ops.expert_lora import expert_lora, expert_lora_reference

H, I, R, E, K, S = 12, 10, 4, 6, 3, 0.7  # noqa: E741 (the field's letters)
SUBSET = [-1, 0, -1, 1, 2, -1]


def clamped(gate_up):
    g, u = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(g.clamp(max=0.3)) * u.clamp(-0.3, 0.3)


def routed(histogram, rng):
    """(T, K) choices whose experts occur in about the given proportions; expert E is "none"."""
    tokens = 15
    weights = torch.tensor(histogram, dtype=torch.float64).expand(tokens, -1)
    return torch.multinomial(weights, K, generator=rng, replacement=True)


HISTOGRAMS = {
    "uniform": [1] * E + [0],
    "zipf": [1 / (i + 1) ** 2 for i in range(E)] + [0],
    "one expert": [0, 0, 0, 1, 0, 0, 0],
    "some without expert": [1] * E + [4],
    "nobody has an expert": [0] * E + [1],
}


def problem(index, *, slots=None, dtype=torch.float64, lora_dtype=None, wide=1):
    h, i = H * wide, I * wide
    rng = torch.Generator().manual_seed(1)
    n = E if slots is None else max(slots) + 1

    def normal(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64) / shape[-1] ** 0.5

    lora = [normal(n, R, h), normal(n, 2 * i, R), normal(n, R, i), normal(n, h, R)]
    frozen = [normal(E, 2 * i, h).to(dtype), normal(E, h, i).to(dtype)]
    hidden, weights = normal(len(index), h).to(dtype), torch.rand(index.shape, generator=rng).to(dtype)
    lora = [tensor.to(lora_dtype or dtype).requires_grad_() for tensor in lora]
    slots = None if slots is None else torch.tensor(slots)
    return hidden.requires_grad_(), index, weights.requires_grad_(), *frozen, *lora, S, slots


def double(arguments):
    return [
        a.detach().double().requires_grad_(a.requires_grad)
        if torch.is_tensor(a) and a.is_floating_point()
        else a
        for a in arguments
    ]


def run(op, arguments, seed=0, **options):
    """The output and every gradient, in one list."""
    torch.manual_seed(seed)
    out = op(*arguments, **options)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    inputs = [a for a in arguments if torch.is_tensor(a) and a.requires_grad]
    return [out, *torch.autograd.grad(out, inputs, upstream.to(out.dtype))]


def assert_equal(got, wanted):
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("gate", [None, clamped])
@pytest.mark.parametrize("slots", [None, SUBSET])
@pytest.mark.parametrize("histogram", HISTOGRAMS)
def test_outputs_and_gradients_equal_the_naive_twin(histogram, slots, gate, dropout):
    index = routed(HISTOGRAMS[histogram], torch.Generator().manual_seed(0))
    arguments = problem(index, slots=slots)
    options = {"gate": gate, "dropout": dropout}
    assert_equal(run(expert_lora, arguments, **options), run(expert_lora_reference, arguments, **options))


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, E), min_size=K, max_size=K), min_size=0, max_size=9),
    st.lists(st.booleans(), min_size=E, max_size=E).filter(any),
)
def test_any_routing_and_any_subset_equal_the_naive_twin(choices, chosen):
    index = torch.tensor(choices, dtype=torch.int64).view(-1, K)
    slots = [sum(chosen[:e]) if chosen[e] else -1 for e in range(E)]
    arguments = problem(index, slots=slots)
    assert_equal(run(expert_lora, arguments), run(expert_lora_reference, arguments))


@pytest.mark.parametrize("gate", [None, clamped])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_gradients_agree_with_finite_differences(gate, dropout):
    index = torch.tensor([[0, 1, E], [1, 1, 4]])
    hidden, index, weights, gate_up, down, *lora, _, slots = problem(index, slots=SUBSET)

    def op(hidden, weights, *lora):
        torch.manual_seed(0)
        return expert_lora(hidden, index, weights, gate_up, down, *lora, S, slots, gate, dropout)

    assert torch.autograd.gradcheck(op, (hidden, weights, *lora))


def stock(experts, arguments):
    """The stock class with the low-rank terms merged into its weights."""
    hidden, index, weights, gate_up, down, gate_up_a, gate_up_b, down_a, down_b, _, _ = arguments
    merged = {"gate_up_proj": gate_up + S * gate_up_b @ gate_up_a, "down_proj": down + S * down_b @ down_a}
    return torch.func.functional_call(experts, merged, (hidden, index, weights))


@pytest.mark.parametrize(
    ("experts_class", "config_class"),
    [(DeepseekV3Experts, DeepseekV3Config), (DeepseekV4Experts, DeepseekV4Config)],
)
def test_it_equals_the_stock_class_with_merged_weights(experts_class, config_class):
    config = config_class(hidden_size=H, moe_intermediate_size=I, n_routed_experts=E, num_experts_per_tok=K)
    config._experts_implementation = "eager"
    experts = experts_class(config).double()
    gate = None
    if experts_class is DeepseekV4Experts:
        experts.limit, gate = 0.3, experts._apply_gate
    arguments = problem(routed(HISTOGRAMS["zipf"], torch.Generator().manual_seed(2)))
    ours = run(expert_lora, arguments, gate=gate)
    assert_equal(ours, run(lambda *arguments: stock(experts, arguments), arguments))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1.3), (torch.bfloat16, 1.0)])
@pytest.mark.parametrize("slots", [None, SUBSET])
def test_rounding_is_no_worse_than_plain_torch(dtype, bound, slots):
    index = torch.randint(E, (200, K), generator=torch.Generator().manual_seed(0))
    arguments = problem(index, slots=slots, dtype=dtype, lora_dtype=torch.float32, wide=4)
    truth = run(expert_lora_reference, double(arguments))
    ours, plain = (run(op, arguments) for op in (expert_lora, expert_lora_reference))
    for got, other, want in zip(ours, plain, truth, strict=True):
        assert got.dtype == other.dtype
        assert (got - want).norm() <= bound * (other - want).norm()


def test_gradients_of_the_lora_tensors_are_float32_under_a_bfloat16_base():
    index = routed(HISTOGRAMS["uniform"], torch.Generator().manual_seed(0))
    out, d_hidden, _, *d_lora = run(
        expert_lora, problem(index, dtype=torch.bfloat16, lora_dtype=torch.float32)
    )
    assert {out.dtype, d_hidden.dtype} == {torch.bfloat16}
    assert {gradient.dtype for gradient in d_lora} == {torch.float32}


def test_autocast_chooses_the_dtype_of_the_products():
    arguments = problem(routed(HISTOGRAMS["uniform"], torch.Generator().manual_seed(0)), dtype=torch.float32)
    full = expert_lora(*arguments)
    with torch.autocast("cpu", torch.bfloat16):
        half, naive = expert_lora(*arguments), expert_lora_reference(*arguments)
    assert half.dtype == torch.float32
    assert 1e-4 < (half - full).norm() / full.norm() < 2e-2
    assert (half - full).norm() <= 1.15 * (naive - full).norm()


def test_an_expert_that_was_not_hit_gets_a_zero_gradient():
    arguments = problem(torch.tensor([[0, 1, 2]]))
    d_gate_up_a = run(expert_lora, arguments)[3]
    assert d_gate_up_a[:3].flatten(1).any(1).all()
    assert not d_gate_up_a[3:].any()


def test_only_the_gradients_that_are_asked_for_are_made():
    arguments = [a.detach() if torch.is_tensor(a) else a for a in problem(torch.tensor([[0, 1, 2]]))]
    arguments[6].requires_grad_()
    assert_equal(run(expert_lora, arguments), run(expert_lora_reference, arguments))


def test_without_gradients_nothing_is_kept_and_the_values_are_the_same():
    arguments = problem(routed(HISTOGRAMS["uniform"], torch.Generator().manual_seed(0)), slots=SUBSET)
    with torch.no_grad():
        out = expert_lora(*arguments)
    assert out.grad_fn is None
    assert torch.equal(out, expert_lora(*arguments))


def test_the_backward_keeps_one_activation_and_the_low_rank_parts_only():
    arguments = problem(torch.randint(E, (40, K), generator=torch.Generator().manual_seed(0)))
    given_storages = {a.untyped_storage().data_ptr() for a in arguments if torch.is_tensor(a)}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        expert_lora(*arguments)
    rows = 40 * K
    new = sum(size for storage, size in kept.items() if storage not in given_storages)
    assert new == rows * 8 * (2 * I + 2 * R)


def test_hidden_and_base_of_different_dtypes_are_refused_by_name():
    arguments = list(problem(torch.tensor([[0, 1, 2]])))
    arguments[0] = arguments[0].float()
    with pytest.raises(ValueError, match=r"input is torch.float32 but .* torch.float64"):
        expert_lora(*arguments)


def test_base_weights_that_want_a_gradient_are_refused():
    arguments = problem(torch.tensor([[0, 1, 2]]))
    arguments[3].requires_grad_()
    with pytest.raises(ValueError, match="freeze it"):
        expert_lora(*arguments)


def test_every_wrong_shape_is_named_at_once():
    arguments = list(problem(torch.tensor([[0, 1, 2]])))
    arguments[5], arguments[8] = arguments[5][:3], arguments[8][..., :2]
    with pytest.raises(ValueError, match=r"gate_up_a \(3, 4, 12\) should be \(6, 4, 12\); down_b"):
        expert_lora(*arguments)
