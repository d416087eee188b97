"""One forward over the tokens that the scheduler chose: all sequences in one ragged row, or one at a time."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Items
from typing import Any, Protocol

import torch
from torch import Tensor

from seektune.generation.adapters import Adapters
from seektune.generation.cache import KVCache, Scheduled
from seektune.generation.forms import in_forms, step_forms
from seektune.generation.sequence import Sequence
from seektune.models.load import Loaded

_log = logging.getLogger(__name__)


class Runner(Protocol):
    """What computes scheduled tokens."""

    def run(self, chunks: Items[Scheduled]) -> tuple[list[Sequence], Tensor]:
        """The sequences with nothing left to compute, and (N, V) logits of what follows each of them."""
        ...

    def clear(self, pages: Items[int]) -> None:
        """Wipe pages that hold what is not finite: a mask does not stop it, as 0 · NaN is NaN."""
        ...


class PackedRunner:
    """Chunks of all sequences as one row (1, T) through the model's own layers, keys and values in pages."""

    def __init__(self, loaded: Loaded, adapters: Adapters, num_pages: int, page_size: int) -> None:
        self._model = loaded.model
        self._adapters = adapters
        self._forms = step_forms(loaded.model)
        self._head = loaded.model.get_output_embeddings()
        self._cache = KVCache(cache_shape(loaded), num_pages, page_size, loaded.model.dtype, loaded.device)

    def run(self, chunks: Items[Scheduled]) -> tuple[list[Sequence], Tensor]:
        """As `Runner.run`."""
        paged = self._cache.plan(chunks)
        ids: list[int] = []
        positions: list[int] = []
        done, last = [], []
        for sequence, count in chunks:
            start, end = sequence.computed, sequence.computed + count
            ids += sequence.tokens[start:end]
            positions += range(start, end)
            if end == len(sequence.tokens):
                done.append(sequence)
                last.append(len(ids) - 1)
        device = paged.slots.device
        row, places = torch.tensor([[ids], [positions]], device=device)
        ends = torch.tensor(last, dtype=torch.int64, device=device)
        # Without autograd's views and versions a step of decoding is 5 % faster. Not for models that do not
        # pack: some keep tensors of a forward in buffers, and could not be trained any more.
        with self._adapters.using(chunks), in_forms(self._forms), torch.inference_mode():
            output = self._model.base_model(input_ids=row, position_ids=places, use_cache=False, paged=paged)
            logits: Tensor = self._head(output.last_hidden_state[0, ends])
        return done, logits

    def clear(self, pages: Items[int]) -> None:
        """As `Runner.clear`."""
        for pool in (*self._cache.keys, *self._cache.values):
            pool[list(pages)] = 0


class NativeRunner:
    """One sequence per forward with the cache of transformers' own class, for models that do not pack."""

    def __init__(self, loaded: Loaded, adapters: Adapters) -> None:
        self._model = loaded.model
        self._adapters = adapters
        self._device = loaded.device
        self._said = False

    def run(self, chunks: Items[Scheduled]) -> tuple[list[Sequence], Tensor]:
        """As `Runner.run`."""
        if len(chunks) > 1 and not self._said:
            self._said = True
            model_type = self._model.config.model_type
            _log.warning("%s does not pack: each sequence is a forward of its own", model_type)
        logits = [self._forward(sequence, count) for sequence, count in chunks]
        return [sequence for sequence, _ in chunks], torch.stack(logits)

    def clear(self, pages: Items[int]) -> None:
        """Nothing lies in pages."""

    def _forward(self, sequence: Sequence, count: int) -> Tensor:
        ids = sequence.tokens[sequence.computed : sequence.computed + count]
        with self._adapters.using([(sequence, count)]):
            output = self._model(
                input_ids=torch.tensor([ids], device=self._device),
                past_key_values=sequence.state,
                use_cache=True,
                logits_to_keep=1,
            )
        sequence.state = output.past_key_values
        logits: Tensor = output.logits[0, -1]
        return logits


def packs(loaded: Loaded, max_model_len: int) -> bool:
    """Whether the sequences of a step may share a forward: what one row computes depends on no other."""
    text = loaded.model.config.get_text_config()
    if not loaded.family.packs or "vision" in loaded.family.groups:
        return False
    if "sliding_attention" in (getattr(text, "layer_types", None) or ()):
        return False
    rope = text.rope_parameters or {}
    kind = rope.get("rope_type", "default")
    # These change every position's angle when the longest sequence of a forward passes a limit.
    fixed = kind != "longrope" or max_model_len <= rope["original_max_position_embeddings"]
    return "dynamic" not in kind and fixed


def cache_shape(loaded: Loaded) -> tuple[int, int, int, int]:
    """Layers, key/value heads, width of keys and of values; latent attention keeps one tensor, so 0."""
    config: Any = loaded.model.config.get_text_config()
    if hasattr(config, "kv_lora_rank"):
        return config.num_hidden_layers, 1, config.kv_lora_rank + config.qk_rope_head_dim, 0
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, config.num_key_value_heads, head, head
