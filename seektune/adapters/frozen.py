"""What must not move while an adapter trains: fingerprints of all that is frozen, and what differs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

from torch import Tensor

from seektune.adapters.attach import Delta
from seektune.adapters.fingerprints import checksums, sha256
from seektune.adapters.shards import is_part, local, whole
from seektune.models.load import Loaded


class Frozen:
    """Fingerprints of the router (sha256) and of every other frozen tensor (checksum), taken now.

    Where processes hold the model in parts (FSDP2), `sharded` proves once that the parts are the whole; from
    then on each process proves that its own parts do not move. `router` and `base` count the tensors.
    """

    def __init__(self, loaded: Loaded, deltas: Mapping[str, Delta]) -> None:
        self._loaded = loaded
        self._deltas = deltas
        self._digests = {key: sha256(tensor) for key, tensor in self._router_tensors().items()}
        self._checksums = checksums(self._base_tensors())
        self._parts: dict[str, int] = {}  # checksums of what this process holds of a tensor
        self.router, self.base = len(self._digests), len(self._checksums)

    @property
    def identity(self) -> str:
        """sha256 over all fingerprints (64 hex digits), the same whether the model is sharded or not."""
        return hashlib.sha256(repr([self._digests, self._checksums]).encode()).hexdigest()

    def sharded(self) -> list[str]:
        """Once the model is held in parts: what together is not what it was; every process must ask."""
        router, base = self._router_tensors(), self._base_tensors()
        parts = {key: tensor for key, tensor in (router | base).items() if is_part(tensor)}
        self._parts = checksums({key: local(part) for key, part in parts.items()})
        return [
            f"{plain_name(key)} is not what it was before it was sharded"
            for key, part in parts.items()
            if not self._is_whole(key, whole(part))
        ]

    def moved_router(self) -> list[str]:
        """What changed of the router, by name."""
        parts, rest = _divided(self._router_tensors())
        after = {key: sha256(tensor) for key, tensor in rest.items()}
        changed = self._moved_parts(parts) + _differing(self._digests, after, parts)
        return [f"{key} belongs to the router, which must not change" for key in changed]

    def moved_base(self) -> list[str]:
        """What changed of all else that is frozen, by name."""
        parts, rest = _divided(self._base_tensors())
        changed = self._moved_parts(parts) + _differing(self._checksums, checksums(rest), parts)
        return [f"{plain_name(key)} is frozen but changed" for key in changed]

    def _is_whole(self, key: str, tensor: Tensor) -> bool:
        if key in self._digests:
            return sha256(tensor) == self._digests[key]
        return checksums({key: tensor})[key] == self._checksums[key]

    def _moved_parts(self, parts: Mapping[str, Tensor]) -> list[str]:
        return [key for key, value in checksums(parts).items() if self._parts.get(key) != value]

    def _router_tensors(self) -> dict[str, Tensor]:
        """Weights and buffers of the routers by name."""
        found: dict[str, Tensor] = {}
        router = self._loaded.family.router
        for name, module in self._loaded.model.named_modules():
            if router and re.fullmatch(router, name):
                tensors = [*module.named_parameters(), *module.named_buffers()]
                found |= {f"{name}.{key}": tensor for key, tensor in tensors}
        return found

    def _base_tensors(self) -> dict[str, Tensor]:
        """Everything else that must not move: parameters and stored buffers, less adapter and router.

        Buffers that are not stored may move by right: some rotary embeddings follow the row's length.
        """
        model = self._loaded.model
        trainable = {id(p) for delta in self._deltas.values() for p in delta.parameters()}
        stored, router = model.state_dict().keys(), self._router_tensors()
        tensors: dict[str, Tensor] = {key: p for key, p in model.named_parameters() if id(p) not in trainable}
        tensors |= {key: buffer for key, buffer in model.named_buffers() if key in stored}
        return {key: tensor for key, tensor in tensors.items() if key not in router}


def plain_name(key: str) -> str:
    """The name the tensor has in the base model."""
    return key.replace(".base_layer.", ".")


def _divided(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What this process holds of those that are sharded, and the others."""
    parts = {key: local(tensor) for key, tensor in tensors.items() if is_part(tensor)}
    return parts, {key: tensor for key, tensor in tensors.items() if key not in parts}


def _differing(
    before: Mapping[str, object], after: Mapping[str, object], parts: Mapping[str, Tensor]
) -> list[str]:
    keys = dict.fromkeys([*before, *after])
    return [key for key in keys if key not in parts and before.get(key) != after.get(key)]
