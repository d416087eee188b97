"""What prepared data depends on, as one hash: the same hash, the same rows."""

from __future__ import annotations

import json
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path

from seektune.config.data import DataConfig, SourceConfig
from seektune.data.formats.dataset_info import expand
from seektune.data.sources.files import files_of
from seektune.data.templates.render import TEMPLATES
from seektune.types import Chat

LAYOUT = 1
"""Raised when the meaning of what is written changes."""

_BLOCK = 1 << 20


def fingerprint(config: DataConfig, chat: Chat, seed: int) -> str | None:
    """Hash of the files' content, the configuration, the tokenizer with its template, and this version.

    None where a source lies on the hub: what it holds can change without a sign.
    """
    sources = [expand(source) for source in (*config.train, config.eval.source, config.target) if source]
    if any(source.hub is not None for source in sources):
        return None
    digest = blake2b(digest_size=16)
    settings = config.model_dump(mode="json", exclude={"pack_tokens"})
    for part in (LAYOUT, version("seektune"), seed, settings):
        digest.update(json.dumps(part, sort_keys=True, ensure_ascii=False).encode())
    for source in sources:
        _add_files(digest, source)
    if chat.tokenizer is not None:
        digest.update(chat.tokenizer.backend_tokenizer.to_str().encode())
        digest.update((chat.tokenizer.chat_template or TEMPLATES[chat.template]).encode())
    return digest.hexdigest()


def _add_files(digest: blake2b, source: SourceConfig) -> None:
    for path in files_of(source):
        digest.update(f"\0{path}\0".encode("utf-8", "surrogateescape"))
        with Path(path).open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
