"""An adapter as vLLM reads it, and only what vLLM applies: what it would drop without a word is refused.

vLLM knows one rank and one alpha per adapter, plain module names, and, for each routed expert, all or none
of a layer's, the three matrices of before transformers fused them:

    ….mlp.experts.{e}.gate_proj, .up_proj, .down_proj   lora_A.weight (R, in), lora_B.weight (out, R)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.functional import pad

from seektune.adapters.attach import Delta
from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.folder import CONFIG, WEIGHTS, versioned
from seektune.adapters.lowrank import LowRank
from seektune.adapters.peft_layout import PREFIX, VERSION
from seektune.adapters.store import Stored, save_tensors
from seektune.errors import AdapterError
from seektune.export.draft import draft_of
from seektune.export.experts import every_expert
from seektune.export.vllm_serve import Service, readme, script
from seektune.models.fetch import lasting_name
from seektune.models.load import Loaded
from seektune.models.sites import groups_by_site
from seektune.models.tiny import PREFIX as TINY
from seektune.runlog import write_json, write_text

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as --max-lora-rank."""

_FAMILIES = ("llama", "qwen2", "deepseek_v2", "deepseek_v3")
_MLA = ("deepseek_v2", "deepseek_v3")
_GROUPS = ("attention", "dense", "shared", "routed")
_KV_B = (
    "vLLM absorbs kv_b_proj into its attention and drops a LoRA on it without a word: serve this adapter "
    "with `seektune serve`, give vLLM the model of `--to merged`, or train one with "
    "lora.exclude_modules=[kv_b_proj]"
)


def export_vllm(loaded: Loaded, stored: Stored, name: str, out: Path) -> str:
    """Write `out` for vLLM: adapters/NAME@VERSION, serve.sh and README.md; returns the served name.

    `stored` is what `read_adapter` gave for this base; the version is its content hash. adapters/ is a
    folder for vLLM's own LoRA resolver. Raises AdapterError with a line for each thing that vLLM cannot
    apply, ConfigError when `out` exists.
    """
    _refuse(loaded, stored)
    served = versioned(name, stored.content_hash)
    rank = max(delta.r for delta in stored.deltas.values())
    service = Service(
        served=served,
        base=lasting_name(loaded.source),
        base_name=loaded.source,
        max_lora_rank=next(most for most in RANKS if most >= rank),
        latent_attention=loaded.family.model_type in _MLA,
        experts="routed" in groups_by_site(loaded.model, loaded.family).values(),
    )
    with draft_of(out) as draft:
        folder = draft / "adapters" / served
        folder.mkdir(parents=True)
        save_tensors(_tensors(stored, rank), folder / WEIGHTS)
        write_json(folder / CONFIG, _config(stored, rank, service.base))
        write_text(draft / "serve.sh", script(service))
        (draft / "serve.sh").chmod(0o755)
        write_text(draft / "README.md", readme(service))
    return served


def _refuse(loaded: Loaded, stored: Stored) -> None:
    model_type = loaded.family.model_type
    if model_type not in _FAMILIES:
        raise AdapterError(
            f"adapters of {model_type} are not known to work in vLLM, only those of {', '.join(_FAMILIES)}: "
            "serve this one with `seektune serve`"
        )
    if loaded.source.startswith(TINY):
        raise AdapterError(f"vLLM has no {loaded.source}: train on a base that is a folder or a hub id")
    groups = groups_by_site(loaded.model, loaded.family)
    wrong = [f"{site}: no part that vLLM adapts" for site in stored.deltas if groups.get(site) not in _GROUPS]
    if latent := [site for site in stored.deltas if site.endswith(".kv_b_proj")]:
        wrong.append(f"{latent[0]} and {len(latent) - 1} more: {_KV_B}")
    if (rank := max(delta.r for delta in stored.deltas.values())) > RANKS[-1]:
        wrong.append(f"rank {rank}: vLLM takes at most {RANKS[-1]}, use `seektune serve` or a smaller lora.r")
    if wrong:
        raise AdapterError("vLLM cannot serve this adapter:\n  " + "\n  ".join(wrong))


def _tensors(stored: Stored, rank: int) -> dict[str, Tensor]:
    """All pairs at one rank, filled with zeros, and one scaling; each with memory of its own."""
    tensors = {}
    for site, delta in stored.deltas.items():
        factor = delta.scaling / stored.spec.scaling
        for module, a, b in _pairs(site, delta):
            key = f"{PREFIX}{module}.lora_"
            tensors[f"{key}A.weight"] = pad(a.detach(), (0, 0, 0, rank - delta.r))  # a copy in any case
            tensors[f"{key}B.weight"] = pad(b.detach() * factor, (0, rank - delta.r))
    return tensors


def _pairs(site: str, delta: Delta) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Module name, A (r, in) and B (out, r) of each linear that vLLM sees."""
    if isinstance(delta, LowRank):
        yield site, delta.lora_A, delta.lora_B
        return
    whole = every_expert(delta)
    for expert in range(len(whole.experts)):
        gate, up = whole.gate_up_B[expert].chunk(2)
        yield f"{site}.{expert}.gate_proj", whole.gate_up_A[expert], gate
        yield f"{site}.{expert}.up_proj", whole.gate_up_A[expert], up
        yield f"{site}.{expert}.down_proj", whole.down_A[expert], whole.down_B[expert]


def _config(stored: Stored, rank: int, base: str) -> Mapping[str, Any]:
    """`adapter_config.json`. vLLM reads r and lora_alpha for all modules and ignores PEFT's patterns."""
    routed = any(isinstance(delta, ExpertsLowRank) for delta in stored.deltas.values())
    last = {re.sub(r".*\.", "", site) for site in stored.deltas} - {"experts"}
    return {
        "peft_type": "LORA",
        "peft_version": VERSION,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,  # the resolver compares it with what vLLM opened
        "inference_mode": True,
        "r": rank,
        "lora_alpha": stored.spec.scaling * rank,
        "lora_dropout": 0.0,
        "use_rslora": False,
        "bias": "none",
        "target_modules": sorted(last | ({"gate_proj", "up_proj", "down_proj"} if routed else set())),
    }
