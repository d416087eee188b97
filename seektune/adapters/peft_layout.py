"""PEFT's adapter layout, as names and tensors: what `adapter_config.json` means and how tensors lie on disk.

Fused experts are two nested wrappers there: `…experts.base_layer` is gate_up_proj and `…experts` is
down_proj; one alone is `…experts`. E experts, R rank:

    lora_A.weight (E·R, in)    rows expert-major (e, r)
    lora_B.weight (out, R·E)   columns rank-major (r, e)
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.lowrank import LowRank
from seektune.config.adapter import AdapterSpec

PREFIX = "base_model.model."
VERSION = "0.21.2"
"""The PEFT release whose layout is written."""

_UNDERSTOOD = {
    *("peft_type", "peft_version", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern"),
    *("alpha_pattern", "target_modules", "target_parameters", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "bias", "init_lora_weights"),
}
_WITHOUT_EFFECT = {
    *("task_type", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode"),
    *("megatron_core", "qalora_group_size", "loftq_config", "ensure_weight_tying", "eva_config"),
}
_PLAIN_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")  # the others change the base as well


@dataclass(frozen=True)
class Part:
    """One pair A, B on disk; experts' pairs are three-dimensional here and flattened there."""

    path: str  # of the pair on disk, without the prefix
    target: str  # the base parameter it adapts: ….q_proj.weight, ….experts.down_proj
    a: Tensor  # (R, in) or (E, R, in)
    b: Tensor  # (out, R) or (E, out, R)
    scaling: float

    @property
    def r(self) -> int:
        """The rank."""
        return self.a.shape[-2]

    @property
    def names(self) -> tuple[str, str]:
        """Names of A and B on disk."""
        return f"{PREFIX}{self.path}.lora_A.weight", f"{PREFIX}{self.path}.lora_B.weight"

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of A and B on disk."""
        rows = self.r * (self.a.shape[0] if self.a.dim() == 3 else 1)
        return (rows, self.a.shape[-1]), (self.b.shape[-2], rows)

    def pack(self) -> tuple[Tensor, Tensor]:
        """A and B as they lie on disk."""
        if self.a.dim() == 2:
            return self.a, self.b
        return self.a.flatten(0, 1), self.b.permute(1, 2, 0).flatten(1)

    def unpack(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of `pack`."""
        if self.a.dim() == 2:
            return a, b
        return a.view(self.a.shape), b.unflatten(1, (self.r, -1)).permute(2, 0, 1)


Targets = Mapping[str, tuple[int, float]]
"""Base parameter → rank and scaling of its pair."""


def parts_of(site: str, delta: LowRank | ExpertsLowRank, targets: Targets | None = None) -> list[Part]:
    """The pairs of one delta; with `targets`, only theirs, cut to their rank and with their scaling."""
    if isinstance(delta, LowRank):
        pairs = {f"{site}.weight": (delta.lora_A, delta.lora_B)}
    else:
        pairs = {
            f"{site}.gate_up_proj": (delta.gate_up_A, delta.gate_up_B),
            f"{site}.down_proj": (delta.down_A, delta.down_B),
        }
    own = dict.fromkeys(pairs, (delta.r, delta.scaling))
    chosen = own if targets is None else {target: targets[target] for target in pairs if target in targets}
    parts = []
    for target, (r, scaling) in chosen.items():
        inner = len(chosen) == 2 and target.endswith(".gate_up_proj")
        a, b = pairs[target]
        path = f"{site}.base_layer" if inner else site
        parts.append(Part(path, target, a[..., :r, :], b[..., :r], scaling))
    return parts


def config_of(
    spec: AdapterSpec,
    parts: Iterable[Part],
    linears: Collection[str],
    as_parameters: Collection[str],
    base: str,
) -> dict[str, Any]:
    """The content of `adapter_config.json`.

    `linears` are all linears of the model, `as_parameters` the sites that must be named as parameters
    because PEFT rewrites their module names to the routed experts.
    """
    modules: list[str] = []
    parameters: list[str] = []
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for part in parts:
        is_module = part.a.dim() == 2 and part.path not in as_parameters
        (modules if is_module else parameters).append(part.path if is_module else part.target)
        alpha = part.scaling * (part.r**0.5 if spec.use_rslora else part.r)
        key = re.escape(part.path if is_module else part.target)
        if part.r != spec.r:
            ranks[key] = part.r
        if abs(alpha - spec.lora_alpha) > 1e-9 * spec.lora_alpha:
            alphas[key] = alpha
    return {
        "peft_type": "LORA",
        "peft_version": VERSION,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": spec.r,
        "lora_alpha": spec.lora_alpha,
        "lora_dropout": 0.0 if parameters else spec.lora_dropout,  # PEFT refuses both together
        "use_rslora": spec.use_rslora,
        "bias": "none",
        "target_modules": _shortened(modules, linears),
        "target_parameters": sorted(parameters) or None,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
    }


def unsupported(config: Mapping[str, Any]) -> list[str]:
    """What the config asks for that a low-rank delta on a frozen base is not."""
    wrong = [
        f"{key}: {value!r}"
        for key, value in config.items()
        if value and key not in _UNDERSTOOD and key not in _WITHOUT_EFFECT
    ]
    if config.get("peft_type") != "LORA":
        wrong.append(f"peft_type: {config.get('peft_type')!r}")
    if config.get("bias", "none") != "none":
        wrong.append(f"bias: {config['bias']!r}")
    if config.get("init_lora_weights") not in _PLAIN_STARTS:
        wrong.append(f"init_lora_weights: {config['init_lora_weights']!r} (it changes the base too)")
    return wrong


def targets_of(
    config: Mapping[str, Any], linears: Iterable[str], parameters: Iterable[str]
) -> dict[str, tuple[int, float]]:
    """What the config targets among the names of the model's linears and parameters.

    Raises ValueError for a rank or alpha that is not positive, and whatever a malformed entry causes.
    """
    found = {}
    for name in linears:
        chosen = matches(config.get("target_modules"), name) and _in_layers(config, name)
        if chosen and not matches(config.get("exclude_modules"), name):
            found[f"{name}.weight"] = _rank_and_scaling(config, name)
    for name in parameters:
        if matches(list(config.get("target_parameters") or ()), name):
            found[name] = _rank_and_scaling(config, name)
    return found


def matches(targets: str | Iterable[str] | None, name: str) -> bool:
    """Whether PEFT's targets (a regex on the whole name, or names and their ends) select `name`."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets or ())


def _rank_and_scaling(config: Mapping[str, Any], name: str) -> tuple[int, float]:
    r = _pattern_value(config.get("rank_pattern"), name, config["r"])
    alpha = _pattern_value(config.get("alpha_pattern"), name, config["lora_alpha"])
    if type(r) is not int or r <= 0 or not 0 < alpha < math.inf:
        raise ValueError(f"{name} has rank {r!r} and alpha {alpha!r}")
    return r, alpha / (r**0.5 if config.get("use_rslora") else r)


def _pattern_value(pattern: Mapping[str, Any] | None, name: str, default: Any) -> Any:
    """The first entry whose regex ends the name, as PEFT looks it up."""
    matching = (v for k, v in (pattern or {}).items() if re.match(rf"(.*\.)?({k})$", name))
    return next(matching, default)


def _in_layers(config: Mapping[str, Any], name: str) -> bool:
    wanted = config.get("layers_to_transform")
    if wanted is None:
        return True
    patterns = config.get("layers_pattern") or [r"[^.]*"]
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if layer := re.match(rf".*?\.{pattern}\.(\d+)\.", name):
            return int(layer[1]) in ([wanted] if isinstance(wanted, int) else wanted)
    return False


def _shortened(modules: list[str], linears: Collection[str]) -> list[str]:
    """Last components where they select exactly these modules, else full names."""
    last = {name.rsplit(".", 1)[-1] for name in modules}
    selected = {name for name in linears if name.rsplit(".", 1)[-1] in last}
    return sorted(last) if selected == set(modules) else sorted(modules)
