"""`seektune doctor`: what is installed, what this machine can do, what is missing."""

from __future__ import annotations

import os
import platform
from importlib.metadata import metadata, requires
from typing import NamedTuple

import torch
from packaging.requirements import Requirement
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seektune.recipes.run_folder import installed


class Finding(NamedTuple):
    """One line of the report."""

    name: str
    found: str
    fine: bool
    advice: str = ""


def run(console: Console | None = None) -> bool:
    """Print the report; True when everything the core needs is there in a tested range."""
    console = console or Console()
    findings = [*core(), *extras(), *machine()]
    table = Table("", "what", "found", "what to do", box=None, pad_edge=False)
    for finding in findings:
        table.add_row("✓" if finding.fine else "✗", finding.name, finding.found, escape(finding.advice))
    console.print(table)
    return all(finding.fine for finding in findings)


def core() -> list[Finding]:
    """Each dependency of the core against the range in seektune's own metadata."""
    return [_judge(requirement) for requirement in _requirements("")]


def extras() -> list[Finding]:
    """One line per extra: what of it is missing. A missing extra is no fault."""
    findings = []
    for extra in metadata("seektune").get_all("Provides-Extra") or []:
        missing = [found.name for found in map(_judge, _requirements(extra)) if not found.fine]
        advice = f"optional: pip install 'seektune[{extra}]'" if missing else ""
        findings.append(
            Finding(extra, f"without {', '.join(missing)}" if missing else "complete", True, advice)
        )
    return findings


def machine() -> list[Finding]:
    """Python, processors, accelerators, and which precision pays here."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    amx = bool(torch.cpu._is_amx_tile_supported())
    kind = torch.backends.cpu.get_cpu_capability() + (" with AMX" if amx else "")
    return [
        Finding("python", platform.python_version(), True),
        Finding("processors", f"{os.cpu_count()}, {kind}", True),
        Finding("accelerators", ", ".join(gpus) or "none: everything runs on the CPU", True),
        Finding("bf16", "fast" if gpus or amx else "works, slower than float32", True),
        Finding("fp16", "works" if gpus else "needs a GPU; use bf16 or float32 here", True),
    ]


def _requirements(extra: str) -> list[Requirement]:
    """Those of one extra, or of the core for the empty name."""
    parsed = map(Requirement, requires("seektune") or [])
    return [one for one in parsed if (_extra_of(one) or "") == extra]


def _extra_of(requirement: Requirement) -> str | None:
    marker = str(requirement.marker or "")
    return marker.split("extra == ")[1].strip("'\" ") if "extra == " in marker else None


def _judge(requirement: Requirement) -> Finding:
    found = installed(requirement.name)
    fine = found is not None and requirement.specifier.contains(found, prereleases=True)
    advice = "" if fine else f"pip install '{requirement.name}{requirement.specifier}'"
    return Finding(requirement.name, found or "missing", fine, advice)
