"""Peak memory predicted from config.json against real training: resident memory of processes, on a CPU.

Twelve configurations: random models of 125M to 375M parameters saved as bfloat16, loaded by
`seektune.load_model`, adapted and trained for three steps on ragged rows in a process of their own. Every
prediction is made from the model's config.json alone, by `seektune.training.estimate.predict`, and written to
the file `--predictions` before anything is trained. The four configurations in HELD_OUT were written down
here before the model of memory was built, and were not measured until it was finished.

    python benchmarks/estimate.py [--quick] [--predictions FILE]

Last line, JSON: `worst_error` and `median_error` over all configurations, as fractions of the measured peak;
`held_out_worst` over the four; every prediction with its parts beside what was measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from measure import Result, finish, log, machine, run_case

STEPS = 3
COMMON = {"vocab_size": 32_000, "max_position_embeddings": 8192, "dtype": "bfloat16"}
LATENT = {
    "kv_lora_rank": 128,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
MODELS = {
    "llama-125m": {
        "model_type": "llama",
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    },
    "llama-375m": {
        "model_type": "llama",
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
    },
    "v3-130m": {
        "model_type": "deepseek_v3",
        "hidden_size": 640,
        "intermediate_size": 1792,
        "moe_intermediate_size": 448,
        "num_hidden_layers": 8,
        "num_attention_heads": 10,
        "num_key_value_heads": 10,
        "n_routed_experts": 12,
        "num_experts_per_tok": 4,
        "n_shared_experts": 1,
        "q_lora_rank": 256,
    },
    "v3-300m": {
        "model_type": "deepseek_v3",
        "hidden_size": 512,
        "intermediate_size": 1408,
        "moe_intermediate_size": 352,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "n_routed_experts": 64,
        "num_experts_per_tok": 6,
        "n_shared_experts": 2,
        "q_lora_rank": None,
    },
    "v2-260m": {
        "model_type": "deepseek_v2",
        "hidden_size": 768,
        "intermediate_size": 2048,
        "moe_intermediate_size": 512,
        "num_hidden_layers": 10,
        "num_attention_heads": 12,
        "num_key_value_heads": 12,
        "n_routed_experts": 16,
        "num_experts_per_tok": 4,
        "n_shared_experts": 2,
        "q_lora_rank": None,
    },
}

# model, precision, tokens a row, longest sequence, targets, r, dropout, gradient checkpointing
CASES = [
    ("llama-125m", "float32", 512, 256, "attention dense", 16, 0.0, False),
    ("llama-125m", "float32", 4096, 512, "attention dense", 16, 0.0, False),
    ("llama-375m", "bfloat16", 2048, 512, "attention", 64, 0.0, False),
    ("llama-375m", "float32", 3072, 1024, "attention dense", 16, 0.0, True),
    ("v3-300m", "float32", 1024, 256, "attention routed", 8, 0.0, False),
    ("v3-300m", "bfloat16", 2048, 512, "shared routed", 16, 0.0, False),
    ("v3-130m", "float32", 4096, 512, "attention dense shared", 8, 0.0, True),
    ("v3-130m", "bfloat16", 3072, 512, "attention dense shared routed", 8, 0.1, False),
]
HELD_OUT = [
    ("llama-375m", "float32", 1536, 512, "attention dense", 32, 0.0, False),
    ("llama-125m", "bfloat16", 6144, 1024, "attention", 8, 0.0, True),
    ("v3-300m", "float32", 2048, 512, "attention dense shared routed", 4, 0.0, True),
    ("v2-260m", "bfloat16", 3072, 768, "attention shared", 16, 0.0, False),
]
QUICK = [CASES[0], CASES[4]]


def main() -> None:
    """Predict every case, then measure every case; with --part, be one of those processes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="only two small cases")
    parser.add_argument("--predictions", type=Path, default=Path(tempfile.gettempdir()) / "predictions.json")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        part, *arguments = options.part
        {"predict": predict_all, "build": build, "train": train}[part](*arguments)
    else:
        finish(compare(QUICK if options.quick else CASES + HELD_OUT, options.predictions))


def compare(cases: list[Any], file: Path) -> Result:
    """Predictions first, on file; then one process after another."""
    with tempfile.TemporaryDirectory() as folder:
        for name in {case[0] for case in cases}:
            write_config(name, Path(folder) / name)
        predicted = run_case(__file__, "--part", "predict", folder, json.dumps(cases))["predicted"]
        file.write_text(json.dumps(predicted, indent=2))
        log(f"predictions are in {file}; measuring")
        found = []
        for case, prediction in zip(cases, predicted, strict=True):
            if not (Path(folder) / case[0] / "model.safetensors").exists():
                run_case(__file__, "--part", "build", folder, case[0])
            measured = run_case(__file__, "--part", "train", folder, json.dumps(case))
            error = prediction["peak_bytes"] / measured["measured_bytes"] - 1
            found.append({"case": case, "error": error, "held_out": case in HELD_OUT} | measured | prediction)
            log(
                f"{' '.join(map(str, case)):<78} predicted {prediction['peak_bytes'] / 1e9:6.3f} GB"
                f"  measured {measured['measured_bytes'] / 1e9:6.3f} GB  {error:+.1%}"
            )
    errors = [abs(one["error"]) for one in found]
    held_out = [abs(one["error"]) for one in found if one["held_out"]]
    return {
        "worst_error": round(max(errors), 4),
        "median_error": round(statistics.median(errors), 4),
        "held_out_worst": round(max(held_out), 4) if held_out else None,
        "machine": machine(),
        "cases": found,
    }


def write_config(name: str, folder: Path) -> None:
    """The model's config.json, all that a prediction may read."""
    folder.mkdir()
    latent = LATENT if MODELS[name]["model_type"] != "llama" else {}
    (folder / "config.json").write_text(json.dumps(COMMON | latent | MODELS[name]))


def predict_all(folder: str, cases: str) -> None:
    """The predictions of all cases, from the config.json files."""
    import torch

    from seektune.config.adapter import AdapterSpec
    from seektune.models.outline import architecture, outline
    from seektune.training.estimate import predict
    from seektune.training.footprint import Workload
    from seektune.training.hardware import process_bytes

    process, predicted = process_bytes(), []
    for name, precision, tokens, longest, targets, r, dropout, again in json.loads(cases):
        described = architecture(Path(folder) / name)
        load = Workload(
            tokens=tokens,
            longest=longest,
            dtype=getattr(torch, precision),
            device="cpu",
            gradient_checkpointing=again,
        )
        estimate = predict(
            outline(described),
            AdapterSpec(r=r, target_modules=targets.split(), lora_dropout=dropout),
            load,
            process=process,
            tokens=STEPS * tokens,
            steps=STEPS,
            stored=getattr(torch, described.stored),
        )
        predicted.append(
            {
                "peak_bytes": estimate.memory.peak,
                "moment": estimate.memory.moment,
                "parts": dict(estimate.memory.parts),
            }
        )
    finish({"predicted": predicted})


def build(folder: str, name: str) -> None:
    """Random weights beside the config.json, with a router that spreads the tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(Path(folder) / name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for key, parameter in model.named_parameters():
        if key.endswith("gate.weight"):
            torch.nn.init.normal_(parameter, std=0.02)
    model.save_pretrained(Path(folder) / name)
    finish({})


class Repeated:
    """A batch source that is one ragged batch over and over."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def epoch(self, index: int, start: int = 0) -> Iterator[Any]:
        """The batch."""
        yield self.batch


def train(folder: str, case: str) -> None:
    """Three real steps, and the most memory this process ever had."""
    import torch

    import seektune as st
    from seektune.training.hardware import measured_peak
    from seektune.types import IGNORE, Batch

    name, precision, tokens, longest, targets, r, dropout, again = json.loads(case)
    loaded = st.load_model(Path(folder) / name, dtype=precision, device="cpu")
    st.attach(loaded, st.AdapterSpec(r=r, target_modules=targets.split(), lora_dropout=dropout))
    rows = torch.randint(loaded.model.config.vocab_size, (tokens // longest, longest))
    targets = torch.nn.functional.pad(rows[:, 1:], (0, 1), value=IGNORE)
    batch = Batch(
        input_ids=rows.reshape(1, -1),
        position_ids=torch.arange(longest).repeat(len(rows))[None],
        cu_seqlens=torch.arange(0, tokens + 1, longest, dtype=torch.int32),
        targets=targets.reshape(1, -1),
        weights=torch.ones(1, tokens),
        row_ids=tuple(f"row:{i}" for i in range(len(rows))),
    )
    steps = st.train(
        loaded, Repeated(batch), max_steps=STEPS, learning_rate=1e-4, gradient_checkpointing=again
    )
    losses = [round(step.loss, 4) for step in steps]
    finish({"measured_bytes": measured_peak(), "losses": losses})


if __name__ == "__main__":
    main()
