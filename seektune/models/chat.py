"""What text needs of a base model: its tokenizer and the template of its family, without any weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from seektune.errors import ModelError
from seektune.models.checkpoint import read_config
from seektune.models.families import Family, family_of
from seektune.models.fetch import local_folder
from seektune.models.tiny import PREFIX, tiny_tokenizer

_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")


@dataclass(frozen=True)
class ChatOnly:
    """A base model's tokenizer and family; `tokenizer` is None where the folder has none."""

    tokenizer: PreTrainedTokenizerBase | None
    family: Family

    @property
    def template(self) -> str:
        """Name of the chat template to use when the tokenizer carries none."""
        return self.family.template


def load_chat(source: str | Path) -> ChatOnly:
    """Tokenizer and family of what `load_model` would load; of a hub id, only the small files are fetched.

    Raises ModelError and OfflineError as `load_model` does.
    """
    source = str(source)
    if source.startswith(PREFIX):
        tokenizer, family = tiny_tokenizer(source.removeprefix(PREFIX))
        return ChatOnly(tokenizer, family)
    folder = local_folder(source, weights=False)
    return ChatOnly(load_tokenizer(folder), family_of(read_config(folder)["model_type"]))


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a checkpoint folder; None when it has no tokenizer files."""
    if not any((folder / name).is_file() for name in _FILES):
        return None
    with explained(f"the tokenizer of {folder} does not load (without its files the model loads alone)"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Whatever is raised inside becomes a ModelError that begins with `what`."""
    try:
        yield
    except Exception as error:  # transformers and tokenizers raise whatever a wrong file leads them to
        raise ModelError(f"{what}: {error}") from error
