"""What is installed, against the ranges that are tested, and what each extra would add."""

from __future__ import annotations

from importlib.metadata import metadata, requires

from packaging.requirements import Requirement

from seektune.recipes.check import Check
from seektune.recipes.run_folder import installed

BRINGS = {
    "data": "data sets of a hub",
    "cpu": "faster answers on CPUs, by a compiled product",
    "serve": "an OpenAI-compatible server with metrics",
    "quant": "nf4 and int8 of bitsandbytes; nothing uses them yet",
    "export": "GGUF; nothing writes it yet",
    "demo": "`seektune demo`, whose base model is a GGUF",
    "track": "tensorboard, wandb, mlflow, swanlab and trackio",
    "dev": "tests, linters, and the peers of the benchmarks",
}
"""Each extra of pyproject.toml in a few words."""


def core() -> list[Check]:
    """Each dependency of the core against the range in seektune's own metadata."""
    return [_judged(requirement) for requirement in _requirements("")]


def extras() -> list[Check]:
    """Each extra: what it brings, and what of it is missing. A missing extra is no fault."""
    return [_extra(name) for name in metadata("seektune").get_all("Provides-Extra") or []]


def _extra(name: str) -> Check:
    missing = [check.name for check in map(_judged, _requirements(name)) if not check.fine]
    brings = BRINGS.get(name, "")
    if not missing:
        return Check(name, "installed", brings)
    return Check(name, "missing", f"{brings}\npip install 'seektune[{name}]' adds {', '.join(missing)}")


def _requirements(extra: str) -> list[Requirement]:
    """Those of one extra, or of the core for the empty name."""
    parsed = map(Requirement, requires("seektune") or [])
    return [one for one in parsed if (_extra_of(one) or "") == extra]


def _extra_of(requirement: Requirement) -> str | None:
    marker = str(requirement.marker or "")
    return marker.split("extra == ")[1].strip("'\" ") if "extra == " in marker else None


def _judged(requirement: Requirement) -> Check:
    found = installed(requirement.name)
    tested = ",".join(sorted(map(str, requirement.specifier), reverse=True))  # >= before <
    if found is not None and requirement.specifier.contains(found, prereleases=True):
        return Check(requirement.name, found, f"tested {tested}")
    advice = f"pip install '{requirement.name}{tested}'"
    return Check(requirement.name, found or "missing", advice, fine=False)
