"""An adapter read from a folder for serving: everything checked, its matrices as a slot keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from seektune.adapters.attach import Delta
from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.folder import NAME, versioned
from seektune.adapters.lowrank import LowRank
from seektune.adapters.store import Limits, read_adapter
from seektune.errors import AdapterError
from seektune.models.load import Loaded
from seektune.models.sites import all_sites
from seektune.ops.multi_expert_lora import ExpertLora

TEXT_GROUPS = ("attention", "dense", "shared", "routed")
"""Groups whose rows are tokens of a request, so that a row can have its own adapter."""


@dataclass(frozen=True, eq=False)
class Checked:
    """Matrices in the base's dtype, both B scaled; a key is `name@version`, the version names the content."""

    key: str
    folder: Path
    content_hash: str
    linears: Mapping[str, tuple[Tensor, Tensor]]  # by site name: A (r, in), B (r, out)
    experts: Mapping[str, ExpertLora]  # by site name

    @property
    def bytes(self) -> int:
        """Size of all matrices."""
        experts = [matrix for lora in self.experts.values() for matrix in lora[:4]]
        return sum(m.nbytes for pair in self.linears.values() for m in pair) + sum(m.nbytes for m in experts)


def check_adapter(
    loaded: Loaded, folder: Path | str, name: str, *, root: Path | str | None = None, limits: Limits
) -> Checked:
    """Read an adapter folder as one that may be hostile; on any thread, as the model is only looked at.

    Raises AdapterError when the folder leaves `root`, exceeds `limits`, was trained on another base, or does
    not fit this one in any name, shape, dtype or value.
    """
    if not NAME.fullmatch(name):
        raise AdapterError(
            f"{name!r} cannot name an adapter: use at most 128 letters, digits, . _ + and -, the first a "
            "letter or digit"
        )
    stored = read_adapter(loaded, folder, root=root, limits=limits)
    _refuse_images(loaded, folder, stored.deltas)
    dtype = loaded.model.dtype
    linears: dict[str, tuple[Tensor, Tensor]] = {}
    experts: dict[str, ExpertLora] = {}
    for site, delta in stored.deltas.items():
        if isinstance(delta, LowRank):
            linears[site] = (_kept(delta.lora_A, 1.0, dtype), _kept(delta.lora_B, delta.scaling, dtype).t())
        else:
            experts[site] = _experts(delta, dtype)
    checked = Checked(
        versioned(name, stored.content_hash), Path(folder), stored.content_hash, linears, experts
    )
    _refuse_overflow(checked, dtype)
    return checked


def _experts(delta: ExpertsLowRank, dtype: torch.dtype) -> ExpertLora:
    return ExpertLora(
        _kept(delta.gate_up_A, 1.0, dtype),
        _kept(delta.gate_up_B, delta.scaling, dtype),
        _kept(delta.down_A, 1.0, dtype),
        _kept(delta.down_B, delta.scaling, dtype),
        tuple(delta.slots.tolist()),
    )


def _kept(matrix: Tensor, scaling: float, dtype: torch.dtype) -> Tensor:
    """scaling · matrix, rounded once, to the dtype every product would cast it to."""
    fine = torch.promote_types(dtype, torch.float32)
    return (matrix.detach().to(fine) * scaling).to(dtype)


def _refuse_images(loaded: Loaded, folder: Path | str, deltas: Mapping[str, Delta]) -> None:
    text = {site.name for site in all_sites(loaded.model, loaded.family) if site.group in TEXT_GROUPS}
    if outside := sorted(deltas.keys() - text):
        raise AdapterError(
            f"{folder} adapts {outside[0]} ({len(outside)} such sites), which sees images, not the rows of "
            "a request: attach the adapter alone, or train it on text modules only"
        )


def _refuse_overflow(checked: Checked, dtype: torch.dtype) -> None:
    matrices: dict[str, tuple[Tensor, ...]] = dict(checked.linears)
    matrices |= {site: lora[:4] for site, lora in checked.experts.items()}
    if wrong := [site for site, some in matrices.items() if not all(m.isfinite().all() for m in some)]:
        raise AdapterError(
            f"{checked.folder} overflows in {dtype}, the dtype of the base: {', '.join(wrong)}"
        )
