"""LoRA fine-tuning and serving for the DeepSeek model family."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seektune.adapters.attach import attach, detach
    from seektune.adapters.inventory import inventory
    from seektune.adapters.store import load_adapter, save_adapter
    from seektune.config.adapter import AdapterSpec
    from seektune.data.batches import batches
    from seektune.data.reading import read_records
    from seektune.generation.generate import generate
    from seektune.models.load import load_model
    from seektune.training.loop import train

__version__ = "0.1.0"

__all__ = [
    "AdapterSpec",
    "attach",
    "batches",
    "detach",
    "generate",
    "inventory",
    "load_adapter",
    "load_model",
    "read_records",
    "save_adapter",
    "train",
]

_HOMES = {
    "AdapterSpec": "seektune.config.adapter",
    "attach": "seektune.adapters.attach",
    "batches": "seektune.data.batches",
    "detach": "seektune.adapters.attach",
    "generate": "seektune.generation.generate",
    "inventory": "seektune.adapters.inventory",
    "load_adapter": "seektune.adapters.store",
    "load_model": "seektune.models.load",
    "read_records": "seektune.data.reading",
    "save_adapter": "seektune.adapters.store",
    "train": "seektune.training.loop",
}


def __getattr__(name: str) -> Any:
    # PEP 562: a name is imported when first used, so `import seektune` costs no torch.
    if name not in _HOMES:
        raise AttributeError(f"module 'seektune' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
