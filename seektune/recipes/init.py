"""`seektune init`: a commented configuration to start from."""

from __future__ import annotations

import json
from pathlib import Path

from seektune.errors import ConfigError

# Values are filled in as JSON strings, which are valid YAML: a colon or # in a path stays text.
TEMPLATE = """\
# seektune prepare {name}.yaml                checks the data and shows it as the model will see it
# seektune train {name}.yaml                  trains this
# seektune train {name}.yaml lora.r=32        any key can be overridden on the command line

base_model: {base_model}    # a folder, a hub id, modelscope:id, or tiny/deepseek_v3 to try things in seconds
output_dir: {output_dir}
dtype: auto                  # the checkpoint's; or float32, bfloat16, float16

data:
  train: [{{path: {data}}}]    # file, folder or glob; the format is detected, or format: and columns: say it
  eval: {{fraction: 0.05}}     # held out by question text; or {{path: heldout.jsonl}}
  # target: asked.jsonl      # what users really ask: is the training data like it?
  prompt_prefix: ""          # put before every question, e.g. "[MEDICAL] 问题:"
  # system_prompt: ""        # for rows that have none
  max_length: 2048           # tokens
  too_long: drop             # or cut_left, cut_right, cut_middle, split; the last answer is never cut
  # pack_tokens: 4096        # fill rows to a token budget instead of a number of samples
  # cleaning: {{pii: mask}}    # phones, e-mail, identity numbers, cards; also html, languages: [zh, en], …
  # dedup: {{near: false}}     # both are on: copies, and rows that ask what a held-out row asks, are dropped

lora:
  r: 16
  lora_alpha: 32
  target_modules: [attention, dense, shared]   # and routed for the experts; names or one regex work too
  exclude_modules: []        # the router is never included; for vLLM with V2 or V3: [kv_b_proj]
  # experts: {{1: [0, 3]}}     # with routed: chosen experts per layer, or a JSON file of them
  lora_dropout: 0.05
  bias: none

training:
  num_train_epochs: 3
  learning_rate: 1e-4
  lr_scheduler_type: linear  # linear, cosine, constant, constant_with_warmup
  warmup_ratio: 0.03
  per_device_train_batch_size: 8
  gradient_accumulation_steps: 1
  # auto_find_batch_size: false   # else a batch that does not fit into memory is halved; the loss is the same
  max_grad_norm: 1.0
  weight_decay: 0.0
  bf16: false                # the base computes in bfloat16; adapters stay float32
  gradient_checkpointing: false   # true: less memory, a third more compute
  gradient_checkpointing_kwargs: {{every_n_layers: 1}}   # 2: half of either
  seed: 42
  logging_steps: 10
  save_steps: 500            # checkpoints to resume from: the same command goes on where it stopped
  save_total_limit: 3        # the newest are kept, and the best by eval loss
  # eval_steps: 100          # otherwise once, at the end
  # layerwise_lr_decay: 0.9  # each layer below learns that much slower
  # loraplus_lr_ratio: 16    # B learns that much faster than A
  # stages: []               # parts of the adapter one after the other, each with its own rate and length
  # report_to: [tensorboard]   # wandb, mlflow, swanlab, trackio; pip install 'seektune[track]'
  # full_determinism: true   # the same bits on a GPU too, slower
  # health: {{non_finite: skip, early_stopping_patience: 3}}   # the policy for each kind of trouble
"""


def run(name: str, *, base_model: str = "tiny/deepseek_v3", data: str = "train.jsonl") -> Path:
    """Write `NAME.yaml` into the current folder; an existing file is never overwritten."""
    name = name.removesuffix(".yaml")
    path = Path(f"{name}.yaml")
    if path.exists():
        raise ConfigError(f"{path} exists already; choose another name or remove it")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent}: make it first")
    values = {"base_model": base_model, "output_dir": f"runs/{Path(name).name}", "data": data}
    quoted = {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}
    text = TEMPLATE.format(name=name, **quoted)
    path.write_text(text, encoding="utf-8")
    return path
