from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from engine_runs import answers, far_adapter, hf_greedy, prompts, text_of, tokens_of

from seektune.config.engine import EngineConfig
from seektune.errors import AdapterError, ConfigError, ModelError
from seektune.generation.engine import Engine, stop_ids
from seektune.generation.generate import encode_prompt
from seektune.generation.request import Request, Sampling
from seektune.generation.streaming import decode
from seektune.models.load import Loaded, load_model
from seektune.models.tiny import TINY
from seektune.quickstart.assets import Base, base_folder

LENGTHS = (5, 1, 40, 17, 16, 33)
TIGHT = EngineConfig(max_num_batched_tokens=16, num_pages=24, page_size=4)  # chunks and preemption
ROOMY = EngineConfig()


@pytest.fixture(scope="module")
def llama() -> Loaded:
    return load_model("tiny/llama")


def requests(count: int = 6, **sampling: object) -> list[Request]:
    settings = Sampling(**({"max_tokens": 12} | sampling))  # type: ignore[arg-type]
    return [
        Request(id=str(index), prompt=prompt, sampling=settings)
        for index, prompt in enumerate(prompts(LENGTHS[:count]))
    ]


@pytest.mark.parametrize("name", TINY)
def test_greedy_tokens_are_transformers_own_alone_and_in_any_mix(name: str) -> None:
    loaded = load_model(f"tiny/{name}", dtype="float64")
    expected = {request.id: hf_greedy(loaded, request.prompt, 12, stop_ids(loaded)) for request in requests()}
    for config, every in ((TIGHT, 0), (ROOMY, 0), (ROOMY, 2)):
        engine = Engine(loaded, config=config)
        got = answers(engine, requests(), every)
        assert {key: tokens_of(outputs) for key, outputs in got.items()} == expected
        assert engine.stats.used_pages == engine.stats.running == engine.stats.waiting == 0
    for request in requests():
        assert tokens_of(answers(Engine(loaded), [request])[request.id]) == expected[request.id]


def test_a_tight_cache_preempts_and_changes_no_token(llama: Loaded) -> None:
    tight, roomy = Engine(llama, config=TIGHT), Engine(llama)
    assert {key: tokens_of(out) for key, out in answers(tight, requests()).items()} == {
        key: tokens_of(out) for key, out in answers(roomy, requests()).items()
    }
    assert tight.stats.preemptions > 0 == roomy.stats.preemptions


def test_a_known_prefix_is_not_computed_again_and_changes_no_token(llama: Loaded) -> None:
    (prefix,) = prompts([64])
    asked = [
        Request(id=str(i), prompt=prefix + end, sampling=Sampling(max_tokens=8))
        for i, end in enumerate(prompts([3, 9], seed=1))
    ]
    engine = Engine(llama)
    first, second = (answers(engine, [request])[request.id] for request in asked)
    assert (first[-1].cached_tokens, second[-1].cached_tokens) == (0, 64)
    alone = answers(Engine(llama, config=EngineConfig(enable_prefix_caching=False)), asked)
    assert tokens_of(second) == tokens_of(alone["1"])
    assert alone["1"][-1].cached_tokens == 0
    other = answers(engine, [replace(asked[1], id="2", cache_key="another")])["2"]
    assert other[-1].cached_tokens == 0


def test_outputs_count_and_their_texts_join_to_the_answer(llama: Loaded) -> None:
    (outputs,) = answers(Engine(llama), requests(1)).values()
    assert text_of(outputs) == decode(llama.tokenizer, tokens_of(outputs))
    assert [output.completion_tokens for output in outputs] == list(range(1, 13))
    assert {output.prompt_tokens for output in outputs} == {5}
    assert [output.finish_reason for output in outputs] == [None] * 11 + ["length"]


def test_a_stop_string_ends_the_answer_before_it(llama: Loaded) -> None:
    (free,) = answers(Engine(llama), requests(1, max_tokens=60)).values()
    text = text_of(free)
    stop = text[5:8]
    (stopped,) = answers(Engine(llama), requests(1, max_tokens=60, stop=("never", stop))).values()
    assert text_of(stopped) == text[: text.index(stop)]
    assert stopped[-1].finish_reason == "stop"
    assert tokens_of(stopped) == tokens_of(free)[: len(tokens_of(stopped))]
    assert len(tokens_of(stopped)) < 60


def test_end_of_sequence_can_be_ignored(llama: Loaded) -> None:
    (free,) = answers(Engine(llama), requests(1)).values()
    llama.model.generation_config.eos_token_id = [1, tokens_of(free)[3]]
    try:
        ignoring, obeying = (
            answers(Engine(llama), requests(1, ignore_eos=ignore))["0"] for ignore in (True, False)
        )
    finally:
        llama.model.generation_config.eos_token_id = 1
    assert tokens_of(ignoring) == tokens_of(free)
    assert tokens_of(obeying) == tokens_of(free)[: tokens_of(free).index(tokens_of(free)[3]) + 1]
    assert obeying[-1].finish_reason == "stop"


def test_sampled_tokens_depend_on_the_seed_and_not_on_the_mix(llama: Loaded) -> None:
    hot = {"temperature": 1.3, "top_p": 0.9, "repetition_penalty": 1.2}
    crowd = [
        replace(request, sampling=replace(request.sampling, seed=index, **hot))
        for index, request in enumerate(requests())
    ]
    expected = {r.id: tokens_of(answers(Engine(llama), [r])[r.id]) for r in crowd}
    for config, every in ((TIGHT, 0), (ROOMY, 0), (ROOMY, 3)):
        got = answers(Engine(llama, config=config), reversed(crowd), every)
        assert {key: tokens_of(outputs) for key, outputs in got.items()} == expected
    first, again = (answers(Engine(llama), requests(1, temperature=1.0))["0"] for _ in range(2))
    assert tokens_of(first) != tokens_of(again)  # no seed: another one each time


def test_logprobs_are_the_models_own(llama: Loaded) -> None:
    (request,) = requests(1, logprobs=3, temperature=0.7, seed=1)
    outputs = answers(Engine(llama), [request])["0"]
    with torch.no_grad():
        ids = torch.tensor([[*request.prompt, *tokens_of(outputs)]])
        log_p = llama.model(input_ids=ids).logits[0].float().log_softmax(-1)
    for place, output in enumerate(outputs, start=len(request.prompt) - 1):
        (entry,) = output.logprobs
        assert entry.token == output.tokens[0]
        assert entry.logprob == pytest.approx(float(log_p[place, entry.token]), abs=1e-5)
        values, indices = log_p[place].topk(3)
        assert [token for token, _ in entry.top] == indices.tolist()
        assert [value for _, value in entry.top] == pytest.approx(values.tolist(), abs=1e-5)


@pytest.mark.parametrize("steps", range(8))
def test_a_cancelled_request_frees_its_pages_and_no_other_token_changes(llama: Loaded, steps: int) -> None:
    engine = Engine(llama, config=TIGHT)
    expected = {key: tokens_of(out) for key, out in answers(Engine(llama), requests()).items()}
    for request in requests():
        engine.submit(request)
    outputs = {str(index): [] for index in range(6)}
    for step in range(10**4):
        if step == steps:
            assert engine.cancel("2")
            assert not engine.cancel("2")
        if not engine.has_work:
            break
        for output in engine.step():
            outputs[output.id].append(output)
    assert outputs["2"][-1].finish_reason == "cancelled"
    assert tokens_of(outputs["2"]) == expected["2"][: len(tokens_of(outputs["2"]))]
    assert all(tokens_of(outputs[key]) == expected[key] for key in expected if key != "2")
    assert engine.stats.used_pages == 0
    assert not engine.cancel("nobody")


def test_each_request_is_answered_by_its_adapter_and_nothing_stays_switched() -> None:
    loaded = load_model("tiny/llama")
    for seed, name in enumerate(("one", "two")):
        far_adapter(loaded, name, seed)
    classes = [type(module) for module in loaded.model.modules()]
    (request,) = requests(1)
    mixed = [
        replace(request, id=str(name), adapter=name, cache_key=name or "") for name in ("one", None, "two")
    ]
    got = answers(Engine(loaded), mixed)
    assert len({tuple(tokens_of(outputs)) for outputs in got.values()}) == 3
    for item in mixed:
        assert tokens_of(answers(Engine(loaded), [item])[item.id]) == tokens_of(got[item.id])
    assert [type(module) for module in loaded.model.modules()] == classes
    with pytest.raises(AdapterError, match="no adapter 'three'; attached: one, two"):
        Engine(loaded).submit(replace(request, adapter="three"))


def test_a_request_that_cannot_be_answered_is_refused_with_the_reason(llama: Loaded) -> None:
    engine = Engine(llama, config=EngineConfig(num_pages=4, page_size=4))
    (request,) = requests(1)
    engine.submit(replace(request, sampling=Sampling(max_tokens=2)))
    with pytest.raises(ConfigError, match="id '0' is under way"):
        engine.submit(request)
    request = replace(request, id="1")
    with pytest.raises(ConfigError, match="up to 17 tokens and the cache holds 16"):
        engine.submit(request)
    with pytest.raises(ConfigError, match="no token"):
        engine.submit(replace(request, prompt=()))
    with pytest.raises(ConfigError, match=r"tokens \[264\]: they go from 0 to 263"):
        engine.submit(replace(request, prompt=(3, 264)))
    context = llama.model.config.max_position_embeddings
    with pytest.raises(ModelError, match=f"context is {context}"):
        engine.submit(replace(request, prompt=(3,) * context))
    with pytest.raises(ConfigError, match="max_model_len is 9999"):
        Engine(llama, config=EngineConfig(max_model_len=9999))
    outputs = [output for _ in range(2) for output in engine.step()]
    assert [output.id for output in outputs] == ["0", "0"]  # what was refused left no trace
    assert not engine.has_work


@pytest.mark.parametrize("base", ["llama", "deepseek_v3", "deepseek_v32"])
def test_an_answer_that_is_not_finite_ends_alone_with_the_reason(base: str) -> None:
    loaded = far_adapter(load_model(f"tiny/{base}"), "bad")
    expected = {key: tokens_of(out) for key, out in answers(Engine(loaded), requests()).items()}
    for name, parameter in loaded.model.named_parameters():
        if name.endswith("lora_B"):
            parameter.data.fill_(torch.nan)
    engine = Engine(loaded, config=EngineConfig(num_pages=60, page_size=4))
    bad = [replace(request, id=f"bad {request.id}", adapter="bad") for request in requests()]
    got = answers(engine, [*bad, *requests()])
    for request in bad:
        (output,) = got[request.id]
        assert (output.finish_reason, output.tokens) == ("error", ())
        assert f"bad gives logits that are not finite after token {len(request.prompt)}" in str(output.error)
    for outputs in (got, answers(engine, requests())):  # pages of the failed ones are used again
        assert {key: tokens_of(outputs[key]) for key in expected} == expected
    assert engine.stats.used_pages == 0


# Three short prompts whose answers grow into the pages that a long one was promised and has not filled yet.
CRAMPED = EngineConfig(num_pages=23, page_size=4, max_num_batched_tokens=8)


def short() -> list[Request]:
    return [request for request in requests(max_tokens=20) if request.id in ("0", "1", "4")]


def long(adapter: str | None) -> Request:
    (prompt,) = prompts([60], seed=3)
    return Request(id="bad", prompt=prompt, adapter=adapter, sampling=Sampling(max_tokens=20))


@pytest.mark.parametrize("ends", ["cancelled", "preempted"])
def test_what_a_prompt_that_was_not_finished_left_behind_hurts_nobody(ends: str) -> None:
    loaded = far_adapter(load_model("tiny/llama"), "bad")
    expected = {key: tokens_of(out) for key, out in answers(Engine(loaded), short()).items()}
    for name, parameter in loaded.model.named_parameters():
        if name.endswith("lora_B"):
            parameter.data.fill_(torch.nan)
    for caching in (True, False):
        engine = Engine(loaded, config=CRAMPED.model_copy(update={"enable_prefix_caching": caching}))
        if ends == "cancelled":
            engine.submit(long("bad"))
            for _ in range(3):
                engine.step()
            assert engine.cancel("bad")
            engine.step()
            got = answers(engine, short())
        else:
            got = answers(engine, [*short(), long("bad")])
            assert engine.stats.preemptions
        assert {key: tokens_of(got[key]) for key in expected} == expected


def test_an_adapter_that_comes_while_the_engine_lives_answers_for_itself_alone() -> None:
    loaded = load_model("tiny/deepseek_v3")
    engine = Engine(loaded)
    (request,) = requests(1)
    before = tokens_of(answers(engine, [request])["0"])
    far_adapter(loaded, "late")
    mixed = [request, replace(request, id="late", adapter="late")]
    got, fresh = answers(engine, mixed), answers(Engine(loaded), mixed)
    assert tokens_of(got["0"]) == before
    assert tokens_of(got["late"]) == tokens_of(fresh["late"]) != before


def test_an_adapter_that_learnt_meanwhile_answers_with_what_it_is_now() -> None:
    loaded = far_adapter(load_model("tiny/llama"), "one")
    engine = Engine(loaded)
    (prompt,) = prompts([64])
    request = Request(id="0", prompt=prompt, adapter="one", sampling=Sampling(max_tokens=12))
    answers(engine, [request])
    assert answers(engine, [request])["0"][-1].cached_tokens == 48
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if name.endswith("lora_B"):
                parameter.mul_(-1)
    again, fresh = answers(engine, [request])["0"], answers(Engine(loaded), [request])["0"]
    assert (again[-1].cached_tokens, tokens_of(again)) == (0, tokens_of(fresh))


def test_only_what_others_computed_counts_as_cached(llama: Loaded) -> None:
    engine = Engine(llama, config=CRAMPED)
    got = answers(engine, [*short(), long(None)])
    assert engine.stats.preemptions > 0
    assert {outputs[-1].cached_tokens for outputs in got.values()} == {0}


def test_prompts_that_cannot_be_cut_still_share_a_budget() -> None:
    engine = Engine(load_model("tiny/deepseek_v4"), config=EngineConfig(max_num_batched_tokens=50))
    for index, prompt in enumerate(prompts([40] * 5)):
        engine.submit(Request(id=str(index), prompt=prompt, sampling=Sampling(max_tokens=2, ignore_eos=True)))
    first = engine.step()
    assert (len(first), engine.stats.waiting) == (2, 3)  # the second one begins within the budget
    while engine.has_work:
        first += engine.step()
    assert len(first) == 10


@pytest.mark.slow
@pytest.mark.parametrize("base", ["dense", "moe"])
def test_real_models_answer_as_transformers_does_but_for_ties(base: Base) -> None:
    """135M in float32: up to a token whose two best logits are closer than 1e-4 in the reference."""
    loaded = load_model(base_folder(base), dtype="float32")
    generator = torch.Generator().manual_seed(0)
    asked = [f"User: What is {word}?\n\nAssistant:" for word in ("fever", "a heart attack", "asthma", "tea")]
    ids = [tuple(encode_prompt(loaded, text * (1 + 3 * (i % 2)))) for i, text in enumerate(asked)]
    ids += [tuple(torch.randint(3, 49_000, (n,), generator=generator).tolist()) for n in (1, 50, 200)]
    ties = 0
    sampling = Sampling(max_tokens=24)
    got = answers(
        Engine(loaded, config=EngineConfig(max_num_batched_tokens=128)),
        [Request(id=str(i), prompt=prompt, sampling=sampling) for i, prompt in enumerate(ids)],
        every=3,
    )
    for index, prompt in enumerate(ids):
        ours, theirs = tokens_of(got[str(index)]), hf_greedy(loaded, prompt, 24, stop_ids(loaded))
        if ours == theirs:
            continue
        place = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
        with torch.no_grad():
            logits = loaded.model(torch.tensor([[*prompt, *theirs[:place]]])).logits[0, -1]
        best, second = logits.topk(2).values.tolist()
        assert best - second < 1e-4, f"prompt {index}, token {place}: {best} against {second}"
        ties += 1
    assert ties <= 1, f"{ties} of {len(ids)} answers part at a tie"


def test_a_model_that_does_not_pack_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    engine = Engine(load_model("tiny/deepseek_v4"))
    with caplog.at_level(logging.WARNING):
        answers(engine, requests(3))
    assert [record.message for record in caplog.records] == [
        "deepseek_v4 does not pack: each sequence is a forward of its own"
    ]


@pytest.mark.parametrize(
    "base", ["llama", "qwen2", "deepseek_v2_lite", "deepseek_v3", "deepseek_v32", "deepseek_v4"]
)
def test_a_model_can_be_trained_after_it_has_answered(base: str) -> None:
    loaded = far_adapter(load_model(f"tiny/{base}"))
    few = Sampling(max_tokens=3)
    answers(
        Engine(loaded),
        [
            Request(id="a", prompt=(5, 6, 7), sampling=few, adapter="default"),
            Request(id="b", prompt=(8, 9), sampling=few),
        ],
    )
    loaded.model(input_ids=torch.tensor([[5, 6, 7, 8]]), use_cache=False).logits.sum().backward()
    gradients = [p.grad for p in loaded.model.parameters() if p.requires_grad and p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
