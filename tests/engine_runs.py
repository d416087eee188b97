"""Requests through an engine, and what transformers says to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from seektune.generation.engine import Engine
from seektune.generation.request import Output, Request
from seektune.models.load import Loaded


def answers(engine: Engine, requests: Iterable[Request], every: int = 0) -> dict[str, list[Output]]:
    """All outputs by request; with `every`, one more request is submitted after so many steps."""
    waiting, outputs = list(requests), {}
    for step in range(10**6):
        while waiting and (not every or not step % every):
            outputs[waiting[0].id] = []
            engine.submit(waiting.pop(0))
            if every:
                break
        if not waiting and not engine.has_work:
            return outputs
        for output in engine.step():
            outputs[output.id].append(output)
    raise AssertionError("the engine does not come to an end")


def tokens_of(outputs: Sequence[Output]) -> list[int]:
    return [token for output in outputs for token in output.tokens]


def text_of(outputs: Sequence[Output]) -> str:
    return "".join(output.text for output in outputs)


def hf_greedy(loaded: Loaded, prompt: Sequence[int], new: int, stops: Iterable[int]) -> list[int]:
    """transformers' own greedy generate."""
    inputs = torch.tensor([list(prompt)])
    out = loaded.model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        do_sample=False,
        max_new_tokens=new,
        eos_token_id=sorted(stops),
        pad_token_id=2,
    )
    return list(out[0, len(prompt) :].tolist())


def prompts(lengths: Iterable[int], seed: int = 0, vocabulary: int = 250) -> list[tuple[int, ...]]:
    """Random prompts of byte tokens."""
    generator = torch.Generator().manual_seed(seed)
    return [tuple(torch.randint(3, vocabulary, (n,), generator=generator).tolist()) for n in lengths]
