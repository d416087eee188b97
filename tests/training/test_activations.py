"""Layers that compute again: less memory the more they are, the same gradients to the bit."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from seektune.adapters.attach import attach
from seektune.config.adapter import AdapterSpec
from seektune.models.load import Loaded, load_model
from seektune.models.outline import architecture, outline
from seektune.models.tiny import tiny_config, tiny_tokenizer
from seektune.training.activations import checkpointed
from seektune.training.footprint import Workload
from seektune.training.memory import memory
from seektune.training.step import TrainStep
from seektune.types import IGNORE

Adapted = Callable[..., Loaded]
LAYERS = 8


class Allocated(TorchDispatchMode):
    """Bytes of the storages that operations made and that are still held; `peak` is the most so far."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen = weakref.WeakSet[torch.UntypedStorage]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and (storage := tensor.untyped_storage()) not in self._seen:
                self._seen.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._freed, storage.nbytes())
        return out

    def _freed(self, size: int) -> None:
        self.now -= size


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny/deepseek_v3 with eight layers."""
    folder = tmp_path_factory.mktemp("deep")
    config = tiny_config("deepseek_v3")
    config.num_hidden_layers = LAYERS
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer("deepseek_v3")[0].save_pretrained(folder)
    return folder


def backward(loaded: Loaded, rows: Any, seed: int = 0) -> None:
    batch = next(iter(rows.grouped(8).epoch(0)))
    torch.manual_seed(seed)
    step = TrainStep(loaded).train()
    loss, _, _ = step(batch.input_ids, batch.position_ids, batch.cu_seqlens, batch.targets, batch.weights)
    loss.backward()


def peak(source: Path, rows: Any, every: int | None, targets: list[str]) -> int:
    """Most bytes held at once; none of the layers is checkpointed where `every` is None."""
    loaded = attach(load_model(source), AdapterSpec(r=4, target_modules=targets, lora_dropout=0.2))
    with checkpointed(loaded.model, every is not None, every_n_layers=every or 1), Allocated() as allocated:
        backward(loaded, rows)
    return allocated.peak


def predicted(source: Path, rows: Any, every: int | None, targets: list[str]) -> int:
    batch = next(iter(rows.grouped(8).epoch(0)))
    load = Workload(
        tokens=batch.input_ids.shape[1],
        longest=int(batch.cu_seqlens.diff().max()),
        learned=float((batch.targets != IGNORE).float().mean()),
        dtype=torch.float32,
        device="cpu",
        gradient_checkpointing=every is not None,
        every_n_layers=every or 1,
    )
    spec = AdapterSpec(r=4, target_modules=targets, lora_dropout=0.2)
    outlined = outline(architecture(source))
    parts = memory(outlined, spec, load, process=0, stored=torch.float32, steps=1).parts
    return parts["activations"] + parts["logits"] + parts["workspace"]


@pytest.mark.parametrize("targets", [["attention"], ["attention", "routed"]], ids="-".join)
def test_the_peak_lies_between_none_and_all_where_it_is_predicted(
    targets: list[str], deep: Path, rows: Any
) -> None:
    none, *fewer = (peak(deep, rows, every, targets) for every in (None, 3, 2, 1))
    assert none > fewer[0] > fewer[1] > fewer[2]
    assert fewer[2] < 0.5 * none
    at_none = predicted(deep, rows, None, targets)
    for every, measured in zip((3, 2, 1), fewer, strict=True):
        saved = at_none - predicted(deep, rows, every, targets)
        assert saved == pytest.approx(none - measured, rel=0.05)


@pytest.mark.parametrize("name", ["llama", "deepseek_v2", "deepseek_v3", "deepseek_v4"])
@pytest.mark.parametrize("every", [1, 2])
def test_gradients_are_the_same_to_the_bit_dropout_and_experts_included(
    name: str, every: int, rows: Any, adapted: Adapted
) -> None:
    def gradients(context: Any, loaded: Loaded) -> dict[str, torch.Tensor]:
        with context:
            backward(loaded, rows)
        return {key: p.grad for key, p in loaded.model.named_parameters() if p.grad is not None}

    group = "dense" if name == "llama" else "routed"
    build = {"target_modules": ["attention", group], "lora_dropout": 0.3, "init_lora_weights": "gaussian"}
    one, other = (adapted(f"tiny/{name}", **build) for _ in range(2))
    plain = gradients(nullcontext(), one)
    again = gradients(checkpointed(other.model, every_n_layers=every), other)
    assert plain.keys() == again.keys()
    assert all(torch.equal(gradient, again[key]) for key, gradient in plain.items())


def test_no_gradient_goes_through_frozen_layers_below_the_adapter(deep: Path, rows: Any) -> None:
    last = rf".*layers\.{LAYERS - 1}\..*o_proj"
    loaded = attach(load_model(deep), AdapterSpec(r=4, target_modules=last))
    wants: list[bool] = []
    for layer in loaded.model.model.layers:
        layer.register_forward_hook(lambda _, inputs, out: wants.append(out.requires_grad))
    with checkpointed(loaded.model):
        backward(loaded, rows)
    assert wants == [False] * (LAYERS - 1) + [True]


def test_afterwards_the_model_is_as_before(adapted: Adapted) -> None:
    loaded = adapted("tiny/deepseek_v3")
    layers, embedding = loaded.model.model.layers, loaded.model.get_input_embeddings()
    with checkpointed(loaded.model, every_n_layers=2):
        assert [layer.gradient_checkpointing for layer in layers] == [True, False]
    assert not loaded.model.is_activation_checkpointing
    assert not embedding._forward_hooks
    loaded.model.activation_checkpointing_enable()
    with checkpointed(loaded.model, every_n_layers=2):
        pass
    assert all(layer.gradient_checkpointing for layer in layers)
    assert len(embedding._forward_hooks) == 1
