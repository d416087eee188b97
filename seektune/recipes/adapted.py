"""A base with the adapters a command names: a run folder brings both, other models bring none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from seektune.adapters.attach import activate
from seektune.adapters.checked import check_adapter
from seektune.adapters.slots import Slots, Staged
from seektune.adapters.store import Limits, load_adapter
from seektune.errors import ConfigError
from seektune.models.load import Loaded, load_model
from seektune.recipes.run_folder import read_finished, read_run
from seektune.serving.served import base_name
from seektune.types import Message


@dataclass(frozen=True)
class Resident:
    """A base with adapters in slots: every row of a batch may have its own."""

    loaded: Loaded
    slots: Slots | None  # None without adapters
    adapters: Mapping[str, Staged]  # by name


def open_adapted(model: str, adapters: Sequence[Path] = ()) -> Loaded:
    """Load a run folder's base and adapter, or any base, then every further adapter; the last is active.

    Raises ConfigError for a run that has no adapter yet and for two adapters of one name.
    """
    loaded, folders = _opened(model, adapters)
    for name, folder in folders.items():
        load_adapter(loaded, folder, name=name)
    if folders:
        activate(loaded, [*folders][-1])
    return loaded


def open_resident(model: str, adapters: Sequence[Path] = ()) -> Resident:
    """What `open_adapted` opens, the adapters in as many slots, as wide as the widest.

    Its errors, ConfigError for an adapter that is called as the base, and AdapterError for one of modules
    that see images.
    """
    loaded, folders = _opened(model, adapters)
    if base_name(loaded) in folders:
        raise ConfigError(f"an adapter is called {base_name(loaded)}, as the base is: rename its folder")
    if not folders:
        return Resident(loaded, None, {})
    checked = [check_adapter(loaded, folder, name, limits=Limits()) for name, folder in folders.items()]
    rank = max((len(a) for one in checked for a, _ in one.linears.values()), default=1)
    slots = Slots(loaded, max_slots=len(checked), max_rank=rank)
    staged = [slots.stage(one) for one in checked]
    for one in staged:
        slots.publish(one)
    return Resident(loaded, slots, dict(zip(folders, staged, strict=True)))


def _opened(model: str, adapters: Sequence[Path]) -> tuple[Loaded, dict[str, Path]]:
    """The base, and the folders of the adapters themselves by name."""
    loaded, own = open_base(model)
    folders: dict[str, Path] = {}
    for folder in (*own, *adapters):
        name = adapter_name(folder)
        if name in folders:
            raise ConfigError(
                f"two adapters are called {name}: {folders[name]} and {folder}; leave one out, or rename it"
            )
        folders[name] = adapter_folder(folder)
    return loaded, folders


def open_base(model: str, dtype: str = "auto") -> tuple[Loaded, list[Path]]:
    """The base of a run folder and the folder of its adapter, or any base and nothing.

    `dtype` auto is the run's, or the checkpoint's. Raises ConfigError for a run that has no adapter yet.
    """
    run = Path(model)
    if not (run / "run.yaml").exists():
        return load_model(model, dtype=dtype), []
    config = read_finished(run)
    chosen = config.compute_dtype if dtype == "auto" else dtype
    loaded = load_model(config.base_model, dtype=chosen, dequantize=config.dequantize)
    return loaded, [run / "adapter"]


def adapter_folder(folder: Path) -> Path:
    """The folder of the adapter itself where a run's was given."""
    return folder / "adapter" if (folder / "run.yaml").exists() else folder


def opening(model: str) -> tuple[list[Message], str]:
    """How a run folder's conversations began: a system turn, if any; and the prefix of each user turn."""
    if not (Path(model) / "run.yaml").exists():
        return [], ""
    data = read_run(model).data
    return [Message("system", data.system_prompt)] if data.system_prompt else [], data.prompt_prefix


def trained_with(run: str) -> str:
    """What a run's conversations began with, for callers who have to send it: servers add nothing."""
    turns, prefix = opening(run)
    lines = [f"the system prompt of its training first: {turn.content!r}" for turn in turns]
    if prefix:
        lines.append(f"each question as in its training: {prefix!r} before it")
    return "".join(f"  {run} wants {line}\n" for line in lines)


def adapter_name(folder: Path) -> str:
    """The name of an adapter: its folder's, or its run's when the folder is a run's `adapter`."""
    folder = folder.resolve()
    name = folder.parent.name if folder.name == "adapter" else folder.name
    return name.replace(".", "_")  # torch's module names hold no dots
