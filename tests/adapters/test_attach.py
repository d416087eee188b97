"""Attaching, switching and detaching adapters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from seektune.adapters.attach import (
    activate,
    active_adapter,
    adapters,
    attach,
    deltas_of,
    detach,
    disabled,
    spec_of,
    wrappers_of,
)
from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.store import load_adapter, save_adapter
from seektune.config.adapter import AdapterSpec
from seektune.errors import AdapterError, TargetError
from seektune.models.load import Loaded, load_model
from seektune.models.tiny import TINY

Build = Callable[..., Loaded]
Logits = Callable[[nn.Module], Tensor]


@pytest.mark.parametrize("name", TINY)
def test_a_new_adapter_changes_no_output_and_detach_restores_the_very_same_modules(
    name: str, logits: Logits
) -> None:
    loaded = load_model(f"tiny/{name}")
    before, base = dict(loaded.model.named_modules()), logits(loaded.model)
    classes = {key: type(module) for key, module in before.items()}
    attach(loaded, AdapterSpec(target_modules=list(loaded.family.groups)))
    torch.testing.assert_close(logits(loaded.model), base, rtol=0, atol=2e-5)
    detach(loaded)
    after = dict(loaded.model.named_modules())
    assert before.keys() == after.keys()
    assert all(after[key] is module for key, module in before.items())
    assert {key: type(module) for key, module in after.items()} == classes
    assert torch.equal(logits(loaded.model), base)
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())
    assert not hasattr(loaded.model, "attachment")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_only_the_adapter_trains_and_it_is_float32_whatever_the_base(adapted: Build, dtype: str) -> None:
    loaded = adapted("deepseek_v3", dtype, target_modules=["all-linear", "routed"])
    trainable = {key: p for key, p in loaded.model.named_parameters() if p.requires_grad}
    assert all(".deltas.default." in key for key in trainable)
    assert {p.dtype for p in trainable.values()} == {torch.float32}
    own = {id(p) for delta in deltas_of(loaded, "default").values() for p in delta.parameters()}
    assert {id(p) for p in trainable.values()} == own


def test_wrappers_follow_the_mode_of_the_model(adapted: Build, logits: Logits) -> None:
    loaded = adapted("llama", lora_dropout=0.5, init_lora_weights=False)
    assert not any(module.training for module in loaded.model.modules())
    assert torch.equal(logits(loaded.model), logits(loaded.model))
    loaded.model.train()
    assert not torch.equal(logits(loaded.model), logits(loaded.model))


def test_the_seed_decides_the_start_and_torch_s_own_state_is_left_alone(logits: Logits) -> None:
    outputs, spec = [], AdapterSpec(init_lora_weights=False)
    state = torch.random.get_rng_state()
    for seed in (1, 1, 2):
        outputs.append(logits(attach(load_model("tiny/llama"), spec, seed=seed).model))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_several_adapters_are_switched_by_name(adapted: Build, logits: Logits) -> None:
    loaded = load_model("tiny/deepseek_v3")
    base = logits(loaded.model)
    spec = AdapterSpec(r=4, init_lora_weights=False, target_modules=["attention", "routed"])
    attach(loaded, spec, name="first", seed=1)
    first = logits(loaded.model)
    attach(loaded, spec.model_copy(update={"target_modules": ["dense"]}), name="second", seed=2)
    second = logits(loaded.model)
    assert adapters(loaded) == ("first", "second")
    assert active_adapter(loaded) == "second"
    assert spec_of(loaded, "second").target_modules == ["dense"]
    activate(loaded, "first")
    torch.testing.assert_close(logits(loaded.model), first)
    assert {key.split(".deltas.")[1].split(".")[0] for key in _trainable(loaded)} == {"first"}
    activate(loaded, "second")
    torch.testing.assert_close(logits(loaded.model), second)
    activate(loaded, None)
    torch.testing.assert_close(logits(loaded.model), base)
    assert not _trainable(loaded)
    assert (first - base).abs().max() > 0.1
    assert (second - base).abs().max() > 0.1


def _trainable(loaded: Loaded) -> list[str]:
    return [key for key, p in loaded.model.named_parameters() if p.requires_grad]


def test_detaching_one_adapter_keeps_the_other(logits: Logits) -> None:
    loaded = load_model("tiny/deepseek_v3")
    spec = AdapterSpec(r=4, init_lora_weights=False, target_modules=["attention", "routed"])
    attach(loaded, spec, name="first")
    first = logits(loaded.model)
    attach(loaded, spec, name="second", seed=3)
    detach(loaded, "second")
    assert adapters(loaded) == ("first",)
    assert active_adapter(loaded) is None
    activate(loaded, "first")
    assert torch.equal(logits(loaded.model), first)


def test_disabled_gives_the_base_and_returns_to_the_adapter_also_after_an_error(
    adapted: Build, logits: Logits
) -> None:
    loaded = adapted("deepseek_v3", target_modules=["attention", "routed"], init_lora_weights=False)
    with_adapter = logits(loaded.model)
    base = logits(load_model("tiny/deepseek_v3").model)

    def fail_inside() -> None:
        with disabled(loaded):
            torch.testing.assert_close(logits(loaded.model), base, rtol=0, atol=2e-5)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert torch.equal(logits(loaded.model), with_adapter)


def test_a_chosen_subset_of_experts_adapts_these_and_no_other_layer(adapted: Build) -> None:
    loaded = adapted("deepseek_v4", target_modules=["attention", "routed"], experts={1: (5, 2), 2: ()})
    deltas = deltas_of(loaded, "default")
    routed = {name: delta.experts for name, delta in deltas.items() if isinstance(delta, ExpertsLowRank)}
    assert routed == {"model.layers.1.mlp.experts": (2, 5)}
    assert sum("self_attn" in name for name in deltas) == 12


@pytest.mark.parametrize(
    ("experts", "targets", "words"),
    [
        ({0: (1,)}, ["routed"], r"layer 0 has none; layers with targeted experts: \[1\]"),
        ({1: (1, 8, -1)}, ["routed"], r"layer 1 has experts 0 to 7, not \[8, -1\]"),
        ({1: ()}, ["routed", "attention"], "chooses no expert"),
        ({1: (0,)}, ["attention"], "add `routed`"),
    ],
)
def test_unknown_layers_and_experts_are_errors(
    experts: dict[int, tuple[int, ...]], targets: list[str], words: str
) -> None:
    loaded = load_model("tiny/deepseek_v3")
    with pytest.raises(TargetError, match=words):
        attach(loaded, AdapterSpec(target_modules=targets, experts=experts))
    assert not wrappers_of(loaded.model)


@pytest.mark.parametrize("name", ["a.b", "", "../up", "a b", "items", "training"])
def test_a_name_that_cannot_name_a_module_is_refused(name: str) -> None:
    with pytest.raises(AdapterError, match="cannot name an adapter"):
        attach(load_model("tiny/llama"), AdapterSpec(), name=name)


def test_names_that_are_taken_or_unknown_are_errors(adapted: Build) -> None:
    loaded = adapted("llama")
    with pytest.raises(AdapterError, match="attached already"):
        attach(loaded, AdapterSpec())
    with pytest.raises(AdapterError, match=r"no adapter named 'other' is attached \(attached: default\)"):
        activate(loaded, "other")
    with pytest.raises(AdapterError, match="call attach or load_adapter first"):
        detach(load_model("tiny/llama"))
    assert adapters(load_model("tiny/llama")) == ()


def test_a_tied_output_head_stays_tied_and_frozen(adapted: Build) -> None:
    loaded = load_model("tiny/llama")
    loaded.model.config.tie_word_embeddings = True
    loaded.model.tie_weights()
    attach(loaded, AdapterSpec())
    head = loaded.model.get_output_embeddings().weight
    assert head is loaded.model.get_input_embeddings().weight
    assert not head.requires_grad


def test_an_attached_model_can_be_copied(adapted: Build, logits: Logits) -> None:
    loaded = adapted("deepseek_v3", target_modules=["attention", "routed"], init_lora_weights=False)
    twin = copy.deepcopy(loaded)
    detach(loaded)
    assert adapters(twin) == ("default",)
    assert not torch.equal(logits(twin.model), logits(loaded.model))


@pytest.mark.parametrize("name", ["llama", "deepseek_v3"])
@pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")
def test_hf_trainer_trains_an_attached_model_on_padded_batches(
    name: str, adapted: Build, logits: Logits, tmp_path: Path
) -> None:
    loaded = adapted(name, target_modules=["all-linear", "routed"] if "v3" in name else "all-linear")
    base = logits(loaded.model)
    generator = torch.Generator().manual_seed(0)
    samples = [torch.randint(3, 256, (length,), generator=generator) for length in (9, 17, 12, 24) * 4]
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "trainer"),
        per_device_train_batch_size=4,
        max_steps=4,
        learning_rate=2e-2,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    Trainer(loaded.model, arguments, data_collator=_padded, train_dataset=samples).train()
    tuned = logits(loaded.model.eval())
    assert (tuned - base).abs().max() > 0.1
    save_adapter(loaded, tmp_path / "adapter")
    again = load_adapter(load_model(f"tiny/{name}"), tmp_path / "adapter")
    assert torch.equal(logits(again.model), tuned)


def _padded(samples: list[Tensor]) -> dict[str, Tensor]:
    ids = nn.utils.rnn.pad_sequence(samples, batch_first=True, padding_value=2)
    mask = nn.utils.rnn.pad_sequence([torch.ones_like(s) for s in samples], batch_first=True)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
