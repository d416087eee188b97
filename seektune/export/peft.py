"""An adapter as PEFT reads it, whatever seektune stores: chosen experts among zeros for the others."""

from __future__ import annotations

from pathlib import Path

from seektune.adapters.experts import ExpertsLowRank
from seektune.adapters.store import Stored, write_adapter
from seektune.export.draft import refuse_existing
from seektune.export.experts import every_expert
from seektune.models.load import Loaded


def export_peft(loaded: Loaded, stored: Stored, out: Path) -> None:
    """Write the folder that PEFT and `load_adapter` read; ConfigError when `out` exists.

    `stored` is what `read_adapter` gave for this base.
    """
    refuse_existing(out)
    deltas = {
        site: every_expert(delta) if isinstance(delta, ExpertsLowRank) else delta
        for site, delta in stored.deltas.items()
    }
    spec = stored.spec.model_copy(
        update={"experts": None, "target_modules": tuple(deltas), "exclude_modules": ()}
    )
    write_adapter(loaded, spec, deltas, out)
