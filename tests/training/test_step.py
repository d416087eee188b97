from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from seektune.data.batches import collate
from seektune.models.load import Loaded, load_model
from seektune.models.tiny import TINY
from seektune.training.step import TrainStep, scored
from seektune.types import IGNORE, Sample


def cut(sample: Sample, length: int) -> Sample:
    """The last `length` tokens of a sample: the end carries its targets."""
    return Sample(sample.input_ids[-length:], sample.targets[-length:], sample.row_id)


def padded_loss(loaded: Loaded, samples: list[Sample]) -> torch.Tensor:
    """HF's own: left to right padded rows, an attention mask, and labels it shifts itself."""
    ids = [torch.tensor([*sample.input_ids, sample.targets[-1]]) for sample in samples]
    labels = [torch.tensor([IGNORE, *sample.targets]) for sample in samples]
    padded = pad_sequence(ids, batch_first=True, padding_value=2)
    mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in ids], batch_first=True)
    targets = pad_sequence(labels, batch_first=True, padding_value=IGNORE)
    loss: torch.Tensor = loaded.model(
        input_ids=padded, attention_mask=mask, labels=targets, use_cache=False
    ).loss
    return loss.double()  # HF computes the loss itself in float32


@pytest.mark.parametrize("name", TINY)
def test_the_ragged_loss_is_the_padded_loss_and_hfs_own(name: str, rows: Any) -> None:
    loaded = load_model(f"tiny/{name}", dtype="float64")
    samples = rows.samples[:4]
    if name == "deepseek_v32":
        # Beyond index_topk tokens its indexer chooses, and breaks ties by the padded length: no reference.
        samples = [cut(sample, loaded.model.config.index_topk - 1) for sample in samples]
    with torch.no_grad():
        loss_sum, weight, _ = scored(TrainStep(loaded), collate(samples))
        assert weight == sum(target != IGNORE for sample in samples for target in sample.targets)
        torch.testing.assert_close(loss_sum / weight, padded_loss(loaded, samples), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", TINY)
def test_the_ragged_loss_is_the_sum_of_the_rows_alone(name: str, rows: Any) -> None:
    loaded = load_model(f"tiny/{name}", dtype="float64")
    step, samples = TrainStep(loaded), rows.samples[:4]
    with torch.no_grad():
        loss_sum, weight, _ = scored(step, collate(samples))
        alone = [padded_loss(loaded, [sample]) * scored(step, collate([sample]))[1] for sample in samples]
    torch.testing.assert_close(loss_sum / weight, sum(alone) / weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "deepseek_v3", "deepseek_v4"])
def test_adapter_gradients_are_those_of_the_padded_path(
    name: str, rows: Any, adapted: Callable[..., Loaded]
) -> None:
    loaded = adapted(f"tiny/{name}", dtype="float64", target_modules="all-linear")
    trainable = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    samples = rows.samples[:3]
    loss_sum, weight, _ = scored(TrainStep(loaded), collate(samples))
    ours = torch.autograd.grad(loss_sum / weight, trainable)
    theirs = torch.autograd.grad(padded_loss(loaded, samples), trainable)
    assert any(gradient.abs().max() > 1e-4 for gradient in ours)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


def test_weights_scale_each_rows_loss(rows: Any) -> None:
    loaded = load_model("tiny/llama", dtype="float64")
    one, two = rows.samples[:2]
    light = Sample(two.input_ids, two.targets, two.row_id, weight=0.25)
    with torch.no_grad():
        loss, weight, log_probs = scored(TrainStep(loaded), collate([one, light]))
        first, second = (scored(TrainStep(loaded), collate([sample])) for sample in (one, two))
    torch.testing.assert_close(loss, first[0] + 0.25 * second[0])
    torch.testing.assert_close(weight, first[1] + 0.25 * second[1])
    torch.testing.assert_close(log_probs, torch.cat([first[2], second[2]]))
