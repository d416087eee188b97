"""Answers from a loaded model: KV cache, greedy or sampled, the adapter unmerged and chosen per call."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import EllipsisType
from typing import Any, cast, overload

import torch

from seektune.adapters.attach import Wrapper, active_adapter, adapters, at_work, wrappers_of
from seektune.data.templates.render import prompt_ids
from seektune.errors import AdapterError, ConfigError, ModelError
from seektune.generation.sampling import next_token
from seektune.generation.streaming import decode, text_pieces
from seektune.models.load import Loaded
from seektune.types import Completion, Message

Prompt = str | Sequence[Message | Mapping[str, Any]]
"""Text to continue as it stands, or a conversation to answer: messages, also as {"role", "content"}."""


@overload
def generate(
    loaded: Loaded,
    prompt: Prompt,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    adapter: str | EllipsisType | None = ...,
) -> Completion:
    """One prompt."""


@overload
def generate(
    loaded: Loaded,
    prompt: list[Prompt],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    adapter: str | EllipsisType | None = ...,
) -> list[Completion]:
    """Several prompts, one after another."""


def generate(
    loaded: Loaded,
    prompt: Prompt | list[Prompt],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    adapter: str | EllipsisType | None = ...,
) -> Completion | list[Completion]:
    """The model's answer to a prompt, or to each of a list of prompts, one after another.

    Greedy at temperature 0; above it, prompt i of a list is sampled with `seed + i`. `adapter` names the
    adapter that answers, None is the base alone, left out it is whichever is active; nothing stays switched.
    `tokens` ends with the end-of-sequence token when `finish_reason` is `stop`; `text` has no special tokens.

    Raises ConfigError on a wrong setting, AdapterError on an unknown adapter, ModelError without a tokenizer
    or without room for one more token in the model's context.
    """
    _check_settings(max_new_tokens, temperature)
    name = _adapter_name(loaded, adapter)
    prompts = _listed(prompt)
    completions = []
    for index, ids in enumerate([encode_prompt(loaded, item) for item in prompts]):
        tokens = tuple(_tokens(loaded, ids, max_new_tokens, temperature, seed + index, name))
        reason = "stop" if tokens[-1] in stop_ids(loaded) else "length"
        completions.append(Completion(decode(loaded.tokenizer, list(tokens)), tokens, reason, name))
    return completions if prompts is prompt else completions[0]


def stream(
    loaded: Loaded,
    prompt: Prompt,
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    adapter: str | EllipsisType | None = ...,
) -> Iterator[str]:
    """The text of `generate` for one prompt, in pieces as it comes; no piece ends within a character.

    Between two pieces the model is as it was: other streams, with other adapters, may run in turn with it.
    """
    _check_settings(max_new_tokens, temperature)
    name, ids = _adapter_name(loaded, adapter), encode_prompt(loaded, prompt)
    return text_pieces(loaded.tokenizer, _tokens(loaded, ids, max_new_tokens, temperature, seed, name))


def encode_prompt(loaded: Loaded, prompt: Prompt) -> list[int]:
    """Tokens of a prompt with BOS exactly once where the tokenizer has one."""
    if loaded.tokenizer is None:
        raise ModelError(f"{loaded.source} has no tokenizer files, so it can read no text: add them to it")
    if not isinstance(prompt, str):
        turns = [turn if isinstance(turn, Message) else Message(**turn) for turn in prompt]
        return prompt_ids(loaded, turns)
    ids: list[int] = loaded.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    bos = loaded.tokenizer.bos_token_id
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


def stop_ids(loaded: Loaded) -> frozenset[int]:
    """Tokens that end an answer: end of sequence as the tokenizer and as the generation configuration say."""
    configured = loaded.model.generation_config.eos_token_id
    ids = list(configured) if isinstance(configured, list) else [configured]
    ids.append(loaded.tokenizer.eos_token_id if loaded.tokenizer else None)
    return frozenset(token for token in ids if token is not None)


def _tokens(
    loaded: Loaded, ids: list[int], max_new_tokens: int, temperature: float, seed: int, name: str | None
) -> Iterator[int]:
    """New tokens, the end-of-sequence token included; at most what the model's context has room for."""
    context = loaded.model.config.get_text_config().max_position_embeddings
    if len(ids) >= context:
        raise ModelError(f"the prompt has {len(ids)} tokens and the model's context is {context}: shorten it")
    generator = torch.Generator(loaded.device).manual_seed(seed)
    stops, cache, inputs = stop_ids(loaded), None, ids
    wrappers = list(wrappers_of(loaded.model).values())
    for _ in range(min(max_new_tokens, context - len(ids))):
        with torch.no_grad(), _answering(loaded, wrappers, name):
            output = loaded.model(
                input_ids=torch.tensor([inputs], device=loaded.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        cache = output.past_key_values
        token = next_token(output.logits[0, -1], temperature, generator)
        yield token
        if token in stops:
            return
        inputs = [token]


@contextmanager
def _answering(loaded: Loaded, wrappers: list[Wrapper], name: str | None) -> Iterator[None]:
    """Evaluation mode with the adapter `name` at work; mode and adapter are as before afterwards."""
    if name is not None and name not in adapters(loaded):
        raise AdapterError(f"the adapter {name!r} was detached while it was answering")
    was_training = loaded.model.training
    if was_training:
        loaded.model.eval()
    try:
        with at_work(wrappers, name):
            yield
    finally:
        if was_training:
            loaded.model.train()


def _adapter_name(loaded: Loaded, adapter: str | EllipsisType | None) -> str | None:
    if isinstance(adapter, EllipsisType):
        return active_adapter(loaded)
    known = adapters(loaded)
    if adapter is not None and adapter not in known:
        raise AdapterError(f"there is no adapter {adapter!r}; attached: {', '.join(known) or 'none'}")
    return adapter


def _listed(prompt: Prompt | list[Prompt]) -> list[Prompt]:
    """A list of prompts as it is; a single prompt (a conversation is a list too) as a list of one."""
    if isinstance(prompt, list) and not any(isinstance(item, Message | Mapping) for item in prompt):
        return cast(list[Prompt], prompt)
    return [cast(Prompt, prompt)]


def _check_settings(max_new_tokens: int, temperature: float) -> None:
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens is {max_new_tokens}: it must be 1 or more")
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ConfigError(f"temperature is {temperature}: it must be 0 (greedy) or above, and finite")
