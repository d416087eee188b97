"""Chosen experts in PEFT's layout, read by the real PEFT and by ourselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from seektune.adapters.attach import disabled
from seektune.adapters.store import Stored, load_adapter
from seektune.errors import ConfigError
from seektune.export.peft import export_peft
from seektune.models.load import Loaded, load_model
from seektune.models.tiny import tiny_model

Build = Callable[..., tuple[Loaded, Stored]]
Logits = Callable[[nn.Module], Tensor]
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v4"])
def test_chosen_experts_give_the_same_logits_in_peft_and_when_loaded_again(
    name: str, adapted: Build, logits: Logits, tmp_path: Path
) -> None:
    loaded, stored = adapted(name, target_modules=["attention", "routed"], experts={1: [0, 3, 6]})
    live = logits(loaded.model)
    with disabled(loaded):
        assert (live - logits(loaded.model)).abs().max() > 0.1
    export_peft(loaded, stored, tmp_path / "out")

    theirs = tiny_model(name, dtype=torch.float64)[0]
    theirs.set_experts_implementation("eager")  # transformers has no grouped product in float64
    peft = PeftModel.from_pretrained(theirs, tmp_path / "out").eval()
    assert (logits(peft) - live).abs().max() < 1e-9
    ours = load_adapter(load_model(f"tiny/{name}", dtype="float64"), tmp_path / "out")
    assert (logits(ours.model) - live).abs().max() < 1e-12


def test_what_exists_is_not_replaced(adapted: Build, tmp_path: Path) -> None:
    loaded, stored = adapted("llama")
    with pytest.raises(ConfigError, match="exists already"):
        export_peft(loaded, stored, tmp_path / "adapter")
