"""Requests through an engine, and what transformers says to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from seektune.adapters.attach import attach
from seektune.adapters.store import save_adapter
from seektune.config.adapter import AdapterSpec
from seektune.generation.adapters import AttachedAdapters
from seektune.generation.engine import Engine
from seektune.generation.request import Output, Request
from seektune.generation.runner import PackedRunner
from seektune.generation.sequence import Sequence as Running
from seektune.models.load import Loaded, load_model


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


def far_adapter(loaded: Loaded, name: str = "default", seed: int = 1, **spec: object) -> Loaded:
    """The model with an adapter that is far from zero; keywords are AdapterSpec's."""
    attach(loaded, AdapterSpec(**({"r": 4, "target_modules": "all-linear"} | spec)), name=name)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed)
    for parameter in loaded.model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.2, generator=generator)
    return loaded


def far_folder(base: str, folder: Path, seed: int = 1, **spec: object) -> Path:
    """Such an adapter as a folder."""
    return save_adapter(far_adapter(load_model(f"tiny/{base}"), seed=seed, **spec), folder)


def logits_in_steps(loaded: Loaded, ids: tuple[int, ...], cuts: list[int]) -> torch.Tensor:
    """Logits after each cut, through the cache."""
    runner = PackedRunner(loaded, AttachedAdapters(loaded), num_pages=30, page_size=4)
    adapter = "default" if hasattr(loaded.model, "attachment") else None
    sequence = Running(Request(id="0", prompt=ids, adapter=adapter), len(ids))
    sequence.table.pages = list(reversed(range(30)))
    found = []
    with torch.no_grad():
        for cut in cuts:
            sequence.tokens = list(ids[: sequence.computed + cut])
            _, logits = runner.run([(sequence, cut)])
            sequence.computed += cut
            found.append(logits)
    return torch.cat(found)
