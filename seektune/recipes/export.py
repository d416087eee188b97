"""`seektune export`: a run's adapter, or its base merged with it, for another program."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from seektune.adapters.store import read_adapter
from seektune.config.triton import triton_export
from seektune.errors import ConfigError
from seektune.export.draft import refuse_existing
from seektune.export.merged import export_merged
from seektune.export.peft import export_peft
from seektune.export.triton import export_triton
from seektune.export.vllm import export_vllm
from seektune.models.load import load_model
from seektune.recipes.adapted import adapter_name, trained_with
from seektune.recipes.run_folder import read_finished

TARGETS = ("vllm", "peft", "merged", "triton")


def run(
    run: Path, *, to: str, out: Path, settings: Sequence[str] = (), console: Console | None = None
) -> None:
    """Write the adapter of the finished run as `to` reads it, or the merged model, into the new folder `out`.

    `settings` are key=value and triton's alone: kind=gpu, administer=true, serving.max_loras=4. Raises
    ConfigError, before the base is loaded, for an unknown target or setting, an existing `out` or a run
    without an adapter; AdapterError for what the target cannot apply.
    """
    console = console or Console(highlight=False, markup=False)
    if to not in TARGETS:
        raise ConfigError(f"--to {to!r} is unknown: use {', '.join(TARGETS)}")
    if settings and to != "triton":
        raise ConfigError(f"--set is for --to triton: {to} has no settings")
    refuse_existing(out)
    config = read_finished(run)
    if to != "peft" and (training := trained_with(str(run))):
        console.print(training.rstrip(), soft_wrap=True)
    given = {"base_model": config.base_model, "dtype": config.compute_dtype, "dequantize": config.dequantize}
    triton = triton_export(given, settings) if to == "triton" else None
    # Files hold the checkpoint's dtype; a server computes in the run's, where an adapter may overflow.
    dtype = triton.dtype if triton else "auto"
    loaded = load_model(config.base_model, dtype=dtype, dequantize=config.dequantize, device="cpu")
    if triton:
        model = export_triton(loaded, run / "adapter", adapter_name(run), triton, out)
        console.print(f"wrote {out}: Triton's model {model}; next: {out}/README.md", soft_wrap=True)
        return
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
