"""Tiny runs, healthy or with one planted fault: trained by the recipe, so that a folder remains."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

from rich.console import Console

from seektune.config.run import RunConfig
from seektune.config.section import validated
from seektune.recipes import train

EN = (
    "old young man woman child since after two three days weeks mild severe at night in the morning was seen "
    "came with worse better again first no known family history of walks eats sleeps well"
)
ZH = (
    "患者 男性 女性 老年 儿童 三天 两周 轻度 重度 夜间 早晨 加重 好转 反复 首次 "
    "无 家族史 睡眠 饮食 正常 来诊 自述 伴有 以来 持续 间断"
)
ENGLISH: dict[str, Any] = {
    "signs": {
        "Heart": ["heart", "pulse", "aorta"],
        "Skin": ["skin", "rash", "itch"],
        "Nerve": ["brain", "nerve", "seizure"],
        "Urine": ["kidney", "bladder", "urine"],
    },
    "filler": EN,
    "text": "Case: {words}.",
    "join": " ",
}
CHINESE: dict[str, Any] = {
    "signs": {
        "心内科": ["心脏", "脉搏", "血压"],
        "皮肤科": ["皮疹", "瘙痒", "红斑"],
        "神经科": ["头晕", "抽搐", "麻木"],
        "泌尿科": ["尿频", "肾脏", "膀胱"],
    },
    "filler": ZH,
    "text": "病例：{words}。",
    "join": "",
}


def classified(count: int, seed: int = 0, words: dict[str, Any] = ENGLISH) -> list[dict[str, str]]:
    """Distinct texts whose label is told by one word among fillers."""
    generator = random.Random(seed)
    rows = []
    for _ in range(count):
        label = generator.choice(list(words["signs"]))
        text = [generator.choice(words["filler"].split()) for _ in range(generator.randint(3, 6))]
        text.insert(0, generator.choice(words["signs"][label]))
        rows.append({"text": words["text"].format(words=words["join"].join(text)), "label": label})
    return rows


def mislabelled(rows: list[dict[str, str]], share: float, seed: int = 0) -> set[int]:
    """Give a share of the rows another label; the numbers of the lines that are wrong now."""
    generator = random.Random(seed)
    labels = sorted({row["label"] for row in rows})
    wrong = set(generator.sample(range(len(rows)), round(share * len(rows))))
    for index in wrong:
        rows[index]["label"] = generator.choice([label for label in labels if label != rows[index]["label"]])
    return {index + 1 for index in wrong}


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def configured(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> RunConfig:
    """A run that learns these rows; `data`, `lora`, `training` and the rest update its sections."""
    train_file = write(folder / "rows.jsonl", rows)
    tree: dict[str, Any] = {
        "base_model": "tiny/deepseek_v3",
        "output_dir": str(folder / "run"),
        "data": {"train": [str(train_file)], "eval": {"fraction": 0.2}},
        "lora": {"r": 8, "target_modules": ["all-linear", "routed"]},
        "training": {
            "num_train_epochs": 8, "learning_rate": 3e-3, "per_device_train_batch_size": 8, "eval_steps": 20,
        },
    }  # fmt: skip
    for name, change in changes.items():
        tree[name] = tree[name] | change if isinstance(change, dict) else change
    return validated(RunConfig, tree, "test")


def trained(config: RunConfig) -> Path:
    return train.run(config, console=Console(file=io.StringIO(), width=120))
