"""Every sequence of a ragged row comes out as if it were alone."""

from __future__ import annotations

import pytest
import torch

from seektune.data.batches import collate
from seektune.models.forward import evaluating, hidden_states
from seektune.models.load import load_model
from seektune.types import Sample


@pytest.mark.parametrize(
    "name", ["llama", "qwen2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "deepseek_v4"]
)
def test_a_sequence_in_a_row_equals_the_sequence_alone(name: str) -> None:
    loaded = load_model(f"tiny/{name}", dtype="float64")
    generator = torch.Generator().manual_seed(0)
    sequences = [torch.randint(3, 250, (length,), generator=generator).tolist() for length in (11, 1, 24)]
    batch = collate([Sample(tuple(ids), tuple(ids), "") for ids in sequences])
    with torch.no_grad():
        row = hidden_states(
            loaded.model, loaded.family.packs, batch.input_ids, batch.position_ids, batch.cu_seqlens
        )
        for ids, sequence in zip(sequences, batch.sequences(), strict=True):
            alone = loaded.model(torch.tensor([ids]), use_cache=False).logits[0]
            torch.testing.assert_close(
                loaded.model.lm_head(row[sequence]), alone, rtol=0, atol=1e-6
            )  # routers and rotary angles are float32


@pytest.mark.parametrize("name", ["llama", "qwen2", "deepseek_v2", "deepseek_v3"])
def test_no_gradient_crosses_from_one_sequence_of_a_row_to_another(name: str) -> None:
    loaded = load_model(f"tiny/{name}", dtype="float64")
    generator = torch.Generator().manual_seed(1)
    sequences = [torch.randint(3, 250, (length,), generator=generator).tolist() for length in (9, 14, 5)]
    batch = collate([Sample(tuple(ids), tuple(ids), "") for ids in sequences])
    embedded: list[torch.Tensor] = []
    embedding = loaded.model.get_input_embeddings()
    embedding.register_forward_hook(lambda module, inputs, output: embedded.append(output.requires_grad_()))
    row = hidden_states(
        loaded.model, loaded.family.packs, batch.input_ids, batch.position_ids, batch.cu_seqlens
    )
    for sequence in batch.sequences():
        (gradient,) = torch.autograd.grad(row[sequence].square().sum(), embedded[0], retain_graph=True)
        reached = gradient[0].abs().sum(-1) > 0
        assert reached[sequence].all()
        assert int(reached.sum()) == sequence.stop - sequence.start


@pytest.mark.parametrize("training", [True, False])
def test_evaluating_leaves_the_mode_as_it_was_however_it_ends(training: bool) -> None:
    model = load_model("tiny/llama").model.train(training)
    seen: list[bool] = []

    def fail() -> None:
        with evaluating(model):
            seen.extend(module.training for module in model.modules())
            seen.append(torch.is_grad_enabled())
            raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        fail()
    assert seen
    assert not any(seen)
    assert all(module.training is training for module in model.modules())
    assert torch.is_grad_enabled()
