"""The `lora` section."""

from __future__ import annotations

from seektune.config.adapter import AdapterSpec


def test_scaling_follows_peft() -> None:
    assert AdapterSpec(r=4, lora_alpha=8).scaling == 2
    assert AdapterSpec(r=4, lora_alpha=8, use_rslora=True).scaling == 4
