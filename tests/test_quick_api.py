"""The Python block of docs/design.md, on every tiny generation, and what must hold after it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import seektune as st
from seektune.models.tiny import TINY

LINES = [
    {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    for question, answer in [
        ("发热咳嗽三天", "呼吸内科"),
        ("Chest pain on exertion", "cardiology"),
        ("Itchy red rash", "dermatology"),
        ("Blurred vision", "ophthalmology"),
        ("Knee pain after a fall", "orthopaedics"),
        ("Fits since childhood", "neurology"),
    ]
]


@pytest.fixture
def train_file(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in LINES), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", TINY)
def test_load_attach_train_save_and_reload(name: str, train_file: Path, tmp_path: Path) -> None:
    loaded = st.load_model(f"tiny/{name}")
    group = "routed" if loaded.family.experts else "dense"
    base_answer = st.generate(loaded, "Chest pain", max_new_tokens=8)

    st.attach(loaded, st.AdapterSpec(r=16, lora_alpha=32, target_modules=["attention", group]))
    table = str(st.inventory(loaded))
    assert {line.split()[0] for line in table.splitlines()} >= {"attention", group, "trains"}
    assert st.generate(loaded, "Chest pain", max_new_tokens=8).tokens == base_answer.tokens

    records = st.read_records([train_file])
    batches = st.batches(records, loaded, batch_size=4, seed=0)
    steps = list(st.train(loaded, batches, max_steps=20, learning_rate=1e-2))
    assert steps[-1].loss < steps[0].loss - 1
    assert all(step.tokens_per_second > 0 for step in steps)
    st.save_adapter(loaded, tmp_path / "adapter")

    again = st.load_model(f"tiny/{name}")
    st.load_adapter(again, tmp_path / "adapter")
    ids = torch.arange(3, 35)[None]
    with torch.no_grad():
        ours, theirs = (m.model(input_ids=ids, use_cache=False).logits for m in (loaded, again))
    assert torch.equal(ours, theirs)
    tuned_answer = st.generate(again, "Chest pain", max_new_tokens=8)
    assert tuned_answer.tokens == st.generate(loaded, "Chest pain", max_new_tokens=8).tokens
    assert tuned_answer.tokens != base_answer.tokens

    st.detach(loaded)
    assert st.generate(loaded, "Chest pain", max_new_tokens=8) == base_answer
