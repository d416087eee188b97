"""A data folder as `prepare` leaves it, written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PROFILE: dict[str, Any] = {
    "rows": 4870,
    "kinds": {"closed question": 4800, "conversation": 70},
    "roles": {"user": 4900, "assistant": 4900, "system": 30},
    "with": {"system prompt": 30, "reasoning": 194, "images": 1},
    "turns": {"1": 4840, "2": 30},
    "labels": [{"counts": {"yes": 276, "no": 169, "maybe": 5}, "commonest_share": 0.613, "imbalance": 55.2}],
    "positions": [{"options": 4, "counts": [320, 240, 230, 210], "favoured": True}],
    "languages": {"en": 0.62, "zh": 0.36, "und": 0.02},
    "characters": {"total": 3_896_000, "mean": 800.0, "histogram": {"edges": [64, 128], "counts": [4870]}},
    "tokens": {
        "total": 900_000, "mean": 185.0, "trained": 81_000, "trained_share": 0.09,
        "histogram": {"edges": [16, 32, 64], "counts": [4000, 870]},
    },
    "openings": [{"text": "Which of the following", "count": 612}, {"text": "关于糖尿病的叙述", "count": 88}],
    "answers": [{"text": "yes", "count": 276}, {"text": "以上都是", "count": 41}],
    "exact": True,
}  # fmt: skip
MATCH: dict[str, Any] = {
    "verdict": "The training texts differ clearly from the target prompts (area under the curve 0.91, "
    "95 % interval 0.89–0.93; 0.50 is chance). Typical of training: 下列. Typical of the target: 怎么办.",
    "differs": True,
    "texts": {"train": 4500, "target": 300},
    "shared": 2,
    "compared": 300,
    "area": {"value": 0.91, "low": 0.89, "high": 0.93},
    "length_area": {"value": 0.31, "low": 0.28, "high": 0.35},
    "lengths": {"train": [20, 64, 210], "target": [9, 22, 60]},
    "typical": {
        "train": [
            {"text": "下列", "train": 0.31, "target": 0.0},
            {"text": "following", "train": 0.27, "target": 0.01},
        ],
        "target": [{"text": "怎么办", "train": 0.001, "target": 0.22}],
    },
    "nearest": [
        {"row": "cmexam.jsonl:17", "text": "发热三天怎么处理", "target": "发烧三天怎么办", "similarity": 0.62}
    ],
    "farthest": [
        {"row": "sst2.jsonl:3", "text": "a stirring film", "target": "头疼怎么办", "similarity": 0.01}
    ],
}
REPORT: dict[str, Any] = {
    "total": 5000, "kept": 4870, "quarantined": 12, "dropped": 118,
    "splits": {
        "train": {
            "total": 4600, "kept": 4475, "quarantined": 11, "dropped": 114,
            "samples": 4475, "tokens": 830_000, "trained_tokens": 74_700,
        },
        "eval": {
            "total": 400, "kept": 395, "quarantined": 1, "dropped": 4,
            "samples": 395, "tokens": 70_000, "trained_tokens": 6_300,
        },
    },
    "sources": [
        {
            "split": "train", "file": "medical/a_rather_long_folder_name/cmexam_practice_train.jsonl.gz",
            "format": "cmexam", "encoding": "gb18030", "kind": "jsonl", "total": 3000, "kept": 2900,
            "quarantined": 11, "dropped": 89, "unread": ["年份", "source"],
        },
        {
            "split": "eval", "file": "medmcqa.parquet", "format": "medmcqa", "encoding": None,
            "kind": "parquet", "total": 2000, "kept": 1970, "quarantined": 1, "dropped": 29, "unread": [],
        },
    ],
    "quarantine": {
        "a line that is not JSON": {
            "count": 8,
            "examples": [{"file": "cmexam.jsonl", "line": 14, "reason": "Expecting ',' at column 88"}],
        },
        "not utf-8": {
            "count": 4, "examples": [{"file": "cmexam.jsonl", "line": 90, "reason": "byte 0xff at 17"}]
        },
    },
    "drops": {
        "near duplicate": {"count": 90, "examples": [{"row": "a.jsonl:7", "detail": "of a.jsonl:3"}]},
        "too long": {"count": 28, "examples": [{"row": "medmcqa.jsonl:9", "detail": "3,011 tokens"}]},
    },
    "cleaning": {
        "mojibake": {
            "count": 31,
            "examples": [{"row": "a.jsonl:4", "before": "BehÃ§et’s", "after": "Behçet’s"}],
        },
        "whitespace": {"count": 1, "examples": [{"row": "a.jsonl:5", "before": "x  \r\n", "after": "x\n"}]},
    },
    "duplicates": {
        "exact": 40, "near": 50, "conflicts": 3, "capped": False,
        "pairs": [{"kept": "cmexam.jsonl:3", "dropped": "cmexam.jsonl:7", "similarity": 0.93}],
    },
    "leakage": {
        "exact": 2, "near": 1,
        "pairs": [{"train": "cmexam.jsonl:30", "eval": "medmcqa.jsonl:8", "similarity": 1.0}],
    },
    "lint": {"thinking_lost": {"count": 6, "examples": ["o1.jsonl:5", "o1.jsonl:6"]}},
    "template": "deepseek_v3",
    "template_differs": "the tokenizer's own adds a newline after <think>",
    "lengths": {
        "train": {
            "min": 21, "p50": 160, "p90": 390, "p95": 520, "p99": 1400, "max": 2048, "mean": 185.5,
            "total": 830_000,
        },
        "costliest": [{"row": "o1.jsonl:5", "tokens": 2048, "share": 0.0025}],
        "histogram": {
            "edges": [16, 32, 64, 128, 256, 512, 1024, 2048],
            "counts": [40, 610, 1500, 1700, 480, 120, 25],
        },
        "max_length": 2048, "too_long": "drop",
    },
    "packing": {"mode": "packed", "rows": 412, "fill": 0.984},
    "profile": PROFILE,
    "match": MATCH,
    "negatives": {
        "options": {"made": 4000, "refused": 12},
        "in_batch": {"made": 70, "refused": 0},
        "examples": [{"row": "a.jsonl:1", "kind": "options", "gold": "A. 青霉素", "negative": "B. 四环素"}],
    },
    "sample": {
        "row": "cmexam.jsonl:1",
        "pieces": [
            ["<｜begin▁of▁sentence｜>", 0], ["<｜User｜>", 0], ["上消化道", 0], ["出血", 0], ["取决于", 0],
            ["\n", 0], ["A.", 0], [" 原发病", 0], ["\n", 0], ["C.", 0], [" 出血量", 0],
            ["<｜Assistant｜>", 0],
            ["C.", 1.0], [" 出血量", 1.0], ["，因为", 0.5], ["<｜end▁of▁sentence｜>", 1.0],
        ],
    },
    "seconds": 4.2,
    "cpu_seconds": 3.9,
}  # fmt: skip


def write_data(folder: Path, **parts: Any) -> Path:
    """A data folder; keyword arguments replace parts of its report."""
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(REPORT | parts), encoding="utf-8")
    return folder
