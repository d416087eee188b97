"""Files, folders, globs and hub ids as one stream of records, each with the place it came from."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from seektune.config.data import SourceConfig
from seektune.data.records import Bad, Record, escaped
from seektune.data.sources.decoding import (
    HEAD,
    compression_of,
    decoded,
    encoding_of,
    head,
    lines,
    named_encoding,
)
from seektune.data.sources.json_records import is_lines, read_elements, read_lines
from seektune.data.sources.tables import read_arrow, read_csv, read_parquet
from seektune.errors import DataError

KINDS = MappingProxyType(
    {
        ".json": "json", ".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "tsv",
        ".parquet": "parquet", ".arrow": "arrow",
        ".txt": "text", ".md": "markdown", ".markdown": "markdown", ".html": "html", ".htm": "html",
    }
)  # fmt: skip
"""What a suffix says a file is, before a look inside; .gz, .zst and .xz may follow it."""

_ARCHIVES = (".gz", ".zst", ".xz")
_DOCUMENTS = ("text", "markdown", "html")
_NOT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What a file was found to be.

    `kind`: jsonl (an object a line), json (an array or objects), csv, tsv, parquet, arrow, text, markdown or
    html; `compression`: gz, zst, xz or None; `encoding`: a codec's name, None for Parquet and Arrow.
    """

    file: str
    kind: str
    compression: str | None
    encoding: str | None


def read(source: SourceConfig) -> Iterator[Record | Bad]:
    """All records the source names, in the order of its files, and what could not be read in their place.

    Raises DataError for a path that matches nothing, a file of no known kind and a hub out of reach.
    """
    if source.hub is not None:
        yield from _read_hub(source)
        return
    for path in files_of(source):
        yield from read_file(describe(path, source.encoding), whole=source.format == "document")


def read_file(facts: FileFacts, whole: bool = False) -> Iterator[Record | Bad]:
    """The records of one file as `describe` found it; `whole`: a text file is one document, not lines."""
    path, encoding = Path(facts.file), facts.encoding or ""
    match facts.kind:
        case "jsonl":
            return read_lines(path, encoding)
        case "json":
            return read_elements(path, encoding)
        case "csv" | "tsv":
            return read_csv(path, encoding, tabs=facts.kind == "tsv")
        case "parquet":
            return read_parquet(path)
        case "arrow":
            return read_arrow(path)
        case "text" if not whole:
            return _text_lines(path, encoding)
    return _document(path, facts.kind, encoding)


def files_of(source: SourceConfig) -> list[Path]:
    """The files a source's path names, sorted: the file itself, or what can be read in a folder or glob.

    A folder is searched with all below it; Markdown and HTML there count only with format `document`.
    DataError where nothing matches.
    """
    if source.path is None:
        return []
    path = Path(source.path).expanduser()
    if path.is_file():
        return [path]
    if path.is_dir():
        found = sorted(inner for inner in path.rglob("*") if inner.is_file())
    else:
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        if not found:
            raise DataError(f"{source.path} matches no file{_near(path)}")
    kinds = {"json", "csv", "tsv", "parquet", "arrow", "text"}
    if source.format == "document":
        kinds = set(_DOCUMENTS)
    elif not path.is_dir():
        kinds |= set(_DOCUMENTS)
    chosen = [file for file in found if _is_data(file, path) and _kind_by_name(file) in kinds]
    if not chosen:
        seen = ", ".join(file.name for file in found[:5]) or "no file at all"
        raise DataError(f"{source.path} holds nothing that can be read as records ({seen}); {_known()}")
    return chosen


def describe(path: Path, encoding: str | None = None) -> FileFacts:
    """Kind, compression and encoding of a file, by its name and first MB; `encoding`: as the user says.

    DataError where it cannot be read or is of no known kind.
    """
    compression = compression_of(path)
    start = head(path)
    kind = _kind_by_name(path) or _kind_by_content(start)
    if kind is None:
        raise DataError(f"{path} is of no known kind; {_known()}")
    if kind in ("parquet", "arrow"):
        return FileFacts(str(path), kind, compression, None)
    encoding = named_encoding(encoding, start) if encoding else encoding_of(start)
    if kind == "json":
        if len(start) == HEAD and b"\n" in start:
            start = start[: start.rindex(b"\n") + 1]
        kind = "jsonl" if is_lines(start.decode(encoding, "replace"), _suffix(path)) else "json"
    return FileFacts(str(path), kind, compression, encoding)


def _suffix(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _ARCHIVES:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _kind_by_name(path: Path) -> str | None:
    return KINDS.get(_suffix(path))


def _kind_by_content(start: bytes) -> str | None:
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    return "json" if start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[") else None


def _is_data(file: Path, root: Path) -> bool:
    """Whether a file found in a folder or by a glob is meant: not hidden, not a list of data sets."""
    inner = file.relative_to(root).parts if root.is_dir() else file.parts[-1:]
    return file.name not in _NOT_DATA and not any(part.startswith(".") for part in inner)


def _near(path: Path) -> str:
    """`: did you mean …` for a path that is not there."""
    folder = path.parent
    while not folder.is_dir():
        path, folder = folder, folder.parent
    names = [inner.name for inner in folder.iterdir()]
    close = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    if close:
        return "; did you mean " + " or ".join(str(folder / name) for name in close) + "?"
    seen = ", ".join(sorted(names)[:5]) or "nothing"
    return f"; {folder} holds {seen}"


def _known() -> str:
    return f"known are {' '.join(KINDS)}, each also with {' '.join(_ARCHIVES)}"


def _text_lines(path: Path, encoding: str) -> Iterator[Record | Bad]:
    file = str(path)
    for number, raw, torn in lines(path, encoding):
        text, reason = decoded(raw, encoding)
        if torn or reason:
            yield Bad(file, number, torn or reason, escaped(raw))
        elif text.strip():
            yield Record(file, number, {"text": text.removesuffix("\r")})


def _document(path: Path, kind: str, encoding: str) -> Iterator[Record | Bad]:
    parts: list[str] = []
    for number, raw, torn in lines(path, encoding):
        text, reason = decoded(raw, encoding)
        if torn or reason:
            yield Bad(str(path), number, f"the document is broken: {torn or reason}", escaped(raw))
            return
        parts.append(text)
    text = "\n".join(parts)
    if text.strip():
        yield Record(str(path), 1, {"text": text, "kind": kind})


def _read_hub(source: SourceConfig) -> Iterator[Record | Bad]:
    try:
        import datasets
    except ImportError:
        raise DataError(f"hub: {source.hub} needs pip install 'seektune[data]'") from None
    name = "/".join(part for part in (source.hub, source.subset, source.split) if part)
    try:
        rows: Any = datasets.load_dataset(source.hub, source.subset, split=source.split, streaming=True)
        for number, fields in enumerate(rows, start=1):
            yield Record(name, number, dict(fields))
    except Exception as error:  # whatever the hub, its client or the data set's files raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise DataError(
            f"hub: {name} cannot be read: {said}. Check the id, split and subset; behind a firewall set "
            "HF_ENDPOINT to a mirror; or download the files elsewhere and give their folder as path"
        ) from None
