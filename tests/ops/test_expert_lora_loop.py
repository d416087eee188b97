import torch

from seektune.ops.expert_lora_loop import expert_lora_loop


class Counting(torch.utils._python_dispatch.TorchDispatchMode):
    """How often each operator runs inside."""

    def __init__(self):
        super().__init__()
        self.counts = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket._qualified_op_name.removeprefix("aten::")
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def products(index, slots=None):
    """Matrix products of one forward and backward over 8 experts."""
    n = 8 if slots is None else int(slots.max()) + 1
    lora = tuple(torch.ones(n, *shape, requires_grad=True) for shape in [(2, 6), (8, 2), (2, 4), (6, 2)])
    frozen = torch.ones(8, 8, 6), torch.ones(8, 6, 4)
    hidden, weights = torch.ones(len(index), 6, requires_grad=True), torch.ones(index.shape)
    with Counting() as mode:
        out = expert_lora_loop(hidden, index, weights, *frozen, lora, 1.0, slots, None, 0.0, torch.float32)
        out.sum().backward()
    return mode.counts.get("mm", 0) + mode.counts.get("addmm_", 0)


def test_an_empty_expert_costs_nothing():
    assert products(torch.tensor([[3]])) == products(torch.tensor([[3], [3], [3]]))
    assert products(torch.tensor([[3], [5]])) == 2 * products(torch.tensor([[3]]))
    assert products(torch.tensor([[8]])) == 0


def test_an_expert_outside_the_subset_runs_only_its_base_products():
    slots = torch.tensor([-1, 0, -1, -1, -1, -1, -1, -1])
    assert products(torch.tensor([[0]]), slots) == 4  # two forward, two backward
    assert products(torch.tensor([[1]]), slots) > 4
