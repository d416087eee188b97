"""A folder that appears complete or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seektune.errors import ConfigError


@contextmanager
def draft_of(out: Path) -> Iterator[Path]:
    """An empty folder that becomes `out` when the block ends well; ConfigError when `out` exists."""
    refuse_existing(out)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        draft = Path(scratch) / "new"
        draft.mkdir()
        yield draft
        refuse_existing(out)
        draft.rename(out)


def refuse_existing(out: Path) -> None:
    """ConfigError when there is something at `out`: an export replaces nothing."""
    if out.exists() or out.is_symlink():
        raise ConfigError(f"--out {out} exists already: choose another folder or remove it")
