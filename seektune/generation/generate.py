"""Answers from a loaded model: KV cache, greedy or sampled, the adapter unmerged and chosen per call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import EllipsisType
from typing import Any, cast, overload

from seektune.adapters.attach import active_adapter, adapters
from seektune.data.templates.render import prompt_ids
from seektune.errors import AdapterError, ConfigError, ModelError
from seektune.generation.engine import Engine
from seektune.generation.request import Output, Request, Sampling
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
    """Several prompts, answered together."""


def generate(
    loaded: Loaded,
    prompt: Prompt | list[Prompt],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    adapter: str | EllipsisType | None = ...,
) -> Completion | list[Completion]:
    """The model's answer to a prompt, or to each of a list of prompts, all computed together.

    Greedy at temperature 0; above it, prompt i of a list is sampled with `seed + i`. `adapter` names the
    adapter that answers, None is the base alone, left out it is whichever is active; nothing stays switched.
    `tokens` ends with the end-of-sequence token when `finish_reason` is `stop`; `text` has no special tokens.

    Raises ConfigError on a wrong setting, AdapterError on an unknown adapter, ModelError without a tokenizer,
    without room for one more token in the model's context, or where logits are not finite.
    """
    prompts = _listed(prompt)
    engine = _engine(loaded, prompts, adapter, max_new_tokens, temperature, seed)
    tokens: list[list[int]] = [[] for _ in prompts]
    texts, reasons = [""] * len(prompts), [""] * len(prompts)
    while engine.has_work:
        for output in _sound(engine.step()):
            index = int(output.id)
            tokens[index] += output.tokens
            texts[index] += output.text
            reasons[index] = output.finish_reason or ""
    name = _adapter_name(loaded, adapter)
    completions = [
        Completion(text, tuple(ids), reason, name)
        for text, ids, reason in zip(texts, tokens, reasons, strict=True)
    ]
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
    return _pieces(_engine(loaded, [prompt], adapter, max_new_tokens, temperature, seed))


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


def _engine(
    loaded: Loaded,
    prompts: list[Prompt],
    adapter: str | EllipsisType | None,
    max_new_tokens: int,
    temperature: float,
    seed: int,
) -> Engine:
    """An engine with one request per prompt, whose ids are their places in the list."""
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens is {max_new_tokens}: it must be 1 or more")
    name = _adapter_name(loaded, adapter)
    requests = [
        Request(
            id=str(index),
            prompt=tuple(encode_prompt(loaded, prompt)),
            sampling=Sampling(max_tokens=max_new_tokens, temperature=temperature, seed=seed + index),
            adapter=name,
        )
        for index, prompt in enumerate(prompts)
    ]
    engine = Engine(loaded)
    for request in requests:
        engine.submit(request)
    return engine


def _pieces(engine: Engine) -> Iterator[str]:
    while engine.has_work:
        yield from filter(None, (output.text for output in _sound(engine.step())))


def _sound(outputs: list[Output]) -> list[Output]:
    """The outputs themselves. Raises ModelError where one ended as its logits were not finite."""
    for output in outputs:
        if output.error is not None:
            raise ModelError(output.error)
    return outputs


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
