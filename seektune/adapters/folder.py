"""An adapter folder as files that may be hostile: what is in it, inside the root, bounded, unchanged.

Nothing is read before its size is known, and nothing through a link out of the root.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from seektune.errors import AdapterError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}")
"""What an adapter, a version and an alias may be called: one part of a path, and no hidden one."""

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
COMPACT, MANIFEST = "seektune_adapter.safetensors", "seektune.json"
FILES = (CONFIG, WEIGHTS, COMPACT, MANIFEST)
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}
_MAX_JSON = 16 << 20  # bytes; a config that names every expert of 61 layers has a hundredth
_MAX_HEADER = 64 << 20  # bytes of a safetensors header
_MAX_PATTERNS, _MAX_PATTERN = 512, 2000  # number, and characters of one


def real_folder(folder: Path, root: Path | str | None) -> Path:
    """The folder with its links resolved; AdapterError when it, or a file in it, leads outside `root`."""
    try:
        resolved = folder.resolve()
        files = [(resolved / name).resolve() for name in FILES]
        found = resolved.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long a name, a null byte, a ring of links
        raise AdapterError(f"{str(folder)!r} is no usable path: {error}") from None
    if root is not None:
        for path in (resolved, *files):
            if not path.is_relative_to(Path(root).resolve()):
                raise AdapterError(f"{folder} leads outside {root}, where adapters may be loaded from")
    if not found:
        raise AdapterError(
            f"{folder} is not a folder: give an adapter's, such as the folder `adapter` of a run", "missing"
        )
    return resolved


def weights_file(folder: Path) -> Path:
    """The one weights file of the folder; AdapterError naming the pickle where only that is there."""
    present = [name for name in (WEIGHTS, COMPACT) if (folder / name).is_file()]
    if len(present) == 1:
        return folder / present[0]
    if present:
        raise AdapterError(f"{folder} holds both {WEIGHTS} and {COMPACT}: remove the one that is stale")
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
    if pickles:
        raise AdapterError(
            f"{folder} holds {pickles[0]}, a pickle, which can run any code when it is read: convert it to "
            f"{WEIGHTS} where you trust it"
        )
    raise AdapterError(f"{folder} has no {WEIGHTS} and no {COMPACT}: it is no adapter folder")


def read_tensors(path: Path, max_bytes: int | None = None) -> dict[str, Tensor]:
    """All tensors of a safetensors file; AdapterError when it is damaged or larger than `max_bytes`."""
    try:
        size = path.stat().st_size
        if max_bytes is not None and size > max_bytes:
            raise AdapterError(f"{path} has {size:,} bytes where at most {max_bytes:,} are allowed")
        with path.open("rb") as stream:
            (header,) = struct.unpack("<Q", stream.read(8))
        if header > min(_MAX_HEADER, size - 8):
            raise ValueError(f"its header claims {header:,} bytes")
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, struct.error) as error:
        if isinstance(error, AdapterError):
            raise
        raise AdapterError(
            f"{path} is truncated or no safetensors file ({error}): copy or save the adapter again"
        ) from None
    return tensors


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; AdapterError when it is missing, none, too large or too deep."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
            raise ValueError("it is no regular file")
        if status.st_size > _MAX_JSON:
            raise ValueError(f"it has more than {_MAX_JSON:,} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise AdapterError(f"cannot read {path}: {error}") from None
    if not isinstance(content, dict):
        raise AdapterError(f"{path} must hold an object of keys and values")
    return content


def refuse_costly_patterns(folder: Path, patterns: Iterable[str]) -> None:
    """Refuse regular expressions that may run for ages on a name, all threads waiting.

    At most 512; each with at most 4 quantifiers and groups, no quantifier on a group and no flag.
    """
    patterns = list(patterns)
    if len(patterns) > _MAX_PATTERNS:
        raise AdapterError(f"{folder} has {len(patterns)} patterns where at most {_MAX_PATTERNS} are allowed")
    for pattern in patterns:
        if _is_costly(pattern):
            raise AdapterError(
                f"{folder}: the regular expression {pattern[:80]!r} may take too long to match: name the "
                "modules in a list"
            )


def _is_costly(pattern: str) -> bool:
    """Counted generously: what looks like a quantifier within odd brackets counts as one."""
    bare = re.sub(r"\\.", "x", pattern, flags=re.DOTALL)  # escapes and classes stand for one character
    flags = re.search(r"\(\?(?!:)", bare)  # they could hide the rest, as comments do
    bare = re.sub(r"\[[^\]]*\]", "x", bare.replace("(?:", "("))
    freedoms = len(re.findall(r"[*+?{(]", bare))
    nested = re.search(r"\)[*+?{]", bare)
    return bool(flags or nested or freedoms > 4 or bare.count("|") > 32 or len(pattern) > _MAX_PATTERN)


def content_hash(folder: Path, spec: Mapping[str, Any]) -> str:
    """sha256 over weights, PEFT's configuration and spec: it names a version of the adapter."""
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode())
    for name in (CONFIG, WEIGHTS, COMPACT):
        if (folder / name).is_file():
            with (folder / name).open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def versioned(name: str, content: str) -> str:
    """`name@version`: the version is the beginning of the content's hash, so it never means two contents."""
    return f"{name}@{content[:16]}"


def signature(folder: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Name, size, time of change (ns) and file number of what is there: another one means another content."""
    found = []
    for name in FILES:
        try:
            status = os.stat(folder / name)
        except OSError:
            continue
        found.append((name, status.st_size, status.st_mtime_ns, status.st_ino))
    return tuple(found)
