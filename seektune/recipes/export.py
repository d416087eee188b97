"""`seektune export`: a run's adapter, or its base merged with it, for another program."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from seektune.adapters.store import read_adapter
from seektune.errors import ConfigError
from seektune.export.draft import refuse_existing
from seektune.export.merged import export_merged
from seektune.export.peft import export_peft
from seektune.export.vllm import export_vllm
from seektune.models.load import load_model
from seektune.recipes.adapted import adapter_name
from seektune.recipes.run_folder import read_finished

TARGETS = ("vllm", "peft", "merged")


def run(run: Path, *, to: str, out: Path, console: Console | None = None) -> None:
    """Write the adapter of the finished run as `to` reads it, or the merged model, into the new folder `out`.

    Raises ConfigError, before the base is loaded, for an unknown target, an existing `out` or a run without
    an adapter; AdapterError for what the target cannot apply.
    """
    console = console or Console(highlight=False, markup=False)
    if to not in TARGETS:
        raise ConfigError(f"--to {to!r} is unknown: use {', '.join(TARGETS)}")
    refuse_existing(out)
    config = read_finished(run)
    loaded = load_model(config.base_model, dequantize=config.dequantize, device="cpu")
    stored = read_adapter(loaded, run / "adapter")
    if to == "peft":
        export_peft(loaded, stored, out)
        console.print(f"wrote {out}, which PEFT reads", soft_wrap=True)
    elif to == "merged":
        export_merged(loaded, stored, out)
        console.print(f"wrote {out}, a model that needs no adapter", soft_wrap=True)
    else:
        served = export_vllm(loaded, stored, adapter_name(run), out)
        console.print(f"wrote {out}: {served}; next: {out}/serve.sh", soft_wrap=True)
