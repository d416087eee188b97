from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from engine_runs import answers, far_folder, hf_greedy, prompts, tokens_of

from seektune.adapters.attach import detach
from seektune.adapters.slots import Slots
from seektune.adapters.store import load_adapter
from seektune.config.engine import EngineConfig
from seektune.errors import AdapterError
from seektune.generation.engine import Engine, stop_ids
from seektune.generation.request import Request, Sampling
from seektune.models.load import load_model

LENGTHS = (5, 44, 17, 1, 16, 33, 9)
MOE = {"target_modules": ["attention", "shared", "routed"]}


def folders(base: str, root: Path) -> list[Path]:
    """Different ranks and targets."""
    specs = [{"r": 4}, {"r": 2, "target_modules": ["attention"]}, {"r": 4}]
    if base.startswith("deepseek"):
        specs[0] = {"r": 3, **MOE}
    return [far_folder(base, root / str(i), seed=i, **spec) for i, spec in enumerate(specs)]


@pytest.mark.parametrize(
    "base", ["llama", "qwen2", "deepseek_v2", "deepseek_v2_lite", "deepseek_v3", "deepseek_v32"]
)
def test_a_mix_of_resident_adapters_equals_each_attached_alone(base: str, tmp_path: Path) -> None:
    loaded = load_model(f"tiny/{base}", dtype="float64")
    found = folders(base, tmp_path)
    asked = prompts(LENGTHS)
    expected = []
    for index, prompt in enumerate(asked):
        if index % 4 < 3:
            load_adapter(loaded, found[index % 4])
        expected.append(hf_greedy(loaded, prompt, 10, stop_ids(loaded)))
        if index % 4 < 3:
            detach(loaded)
    with closing(Slots(loaded)) as slots:
        keys = [slots.publish(slots.prepare(folder, f"a{i}")) for i, folder in enumerate(found)]
        mix = [*keys, None]
        asked_of = [
            Request(id=str(i), prompt=prompt, sampling=Sampling(max_tokens=10), adapter=mix[i % 4])
            for i, prompt in enumerate(asked)
        ]
        for config in (
            EngineConfig(),
            EngineConfig(max_num_batched_tokens=40),
            EngineConfig(max_num_batched_tokens=9, num_pages=30, page_size=4),
        ):
            engine = Engine(loaded, slots, config=config)
            got = answers(engine, asked_of, every=0 if config.num_pages else 2)
            assert [tokens_of(got[str(i)]) for i in range(len(asked))] == expected
        for key in keys:
            slots.retire(key)  # nobody holds them any more
        assert slots.used_bytes == 0
    assert len({tuple(tokens) for tokens in expected}) == len(expected)


def test_a_request_holds_its_adapter_until_it_ends(tmp_path: Path) -> None:
    loaded = load_model("tiny/llama")
    with closing(Slots(loaded)) as slots:
        key = slots.publish(slots.prepare(far_folder("llama", tmp_path / "a"), "a"))
        engine = Engine(loaded, slots)
        request = Request(id="0", prompt=(5, 6, 7), sampling=Sampling(max_tokens=6), adapter=key)
        engine.submit(request)
        engine.submit(replace(request, id="1"))
        engine.step()
        slots.retire(key)
        with pytest.raises(AdapterError, match="not loaded"):
            engine.submit(replace(request, id="2"))
        engine.cancel("1")
        assert slots.used_bytes > 0
        while engine.has_work:
            engine.step()
        assert slots.used_bytes == 0


def test_a_prefix_is_never_shared_between_two_adapters(tmp_path: Path) -> None:
    loaded = load_model("tiny/llama", dtype="float64")
    (prompt,) = prompts([50])
    request = Request(id="0", prompt=prompt, sampling=Sampling(max_tokens=6))
    with closing(Slots(loaded)) as slots:
        key = slots.publish(slots.prepare(far_folder("llama", tmp_path / "a"), "a"))
        engine = Engine(loaded, slots)
        outputs = [answers(engine, [replace(request, adapter=adapter)])["0"] for adapter in (None, key, key)]
    assert [out[-1].cached_tokens for out in outputs] == [0, 0, 48]
    assert tokens_of(outputs[0]) != tokens_of(outputs[1]) == tokens_of(outputs[2])
