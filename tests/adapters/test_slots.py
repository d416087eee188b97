"""Resident adapters: mixed batches equal each adapter alone, and the life of a slot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
import torch
from torch import Tensor

from seektune.adapters.attach import attach, detach
from seektune.adapters.fused import FusedMLP, fuse
from seektune.adapters.slots import Slots, Staged
from seektune.adapters.store import load_adapter, save_adapter
from seektune.config.adapter import AdapterSpec
from seektune.errors import AdapterError
from seektune.models.load import Loaded, load_model

PACKING = ["llama", "qwen2", "deepseek_v2", "deepseek_v2_lite", "deepseek_v3"]
ALONE = ["deepseek_v32", "deepseek_v4"]
EVERYTHING = ["attention", "dense", "shared", "routed"]
Make = Callable[..., Path]


def targets(name: str) -> list[str]:
    groups = {"llama": 2, "qwen2": 2}.get(name, 4)
    return [g for g in EVERYTHING[:groups] if not (name == "deepseek_v4" and g == "dense")]


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """A folder with an adapter whose B is not zero; keywords are AdapterSpec's."""

    def make(base: str, folder: str, seed: int = 1, **spec: object) -> Path:
        settings = {"r": 4, "lora_alpha": 8, "target_modules": targets(base)} | spec
        loaded = attach(load_model(f"tiny/{base}"), AdapterSpec(**settings))
        rng = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in loaded.model.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn(parameter.shape, generator=rng) * 0.2)
        return save_adapter(loaded, tmp_path / base / folder)

    return make


def chosen_experts(base: str) -> dict[str, object]:
    """Fields of a spec that adapts three experts of each routed layer."""
    model = load_model(f"tiny/{base}").model
    layers = [i for i, layer in enumerate(model.model.layers) if hasattr(layer.mlp, "experts")]
    return {"target_modules": ["routed"], "experts": dict.fromkeys(layers, (0, 2, 5))}


def variety(base: str, made: Make) -> list[Path]:
    """Adapters of different ranks and targets, the first two alike in both."""
    folders = [
        made(base, "one", 1),
        made(base, "two", 2),
        made(base, "wide", 3, r=7, lora_alpha=9, target_modules=["attention"]),
        made(base, "narrow", 4, r=1, use_rslora=True),
    ]
    if "routed" in targets(base):
        folders.append(made(base, "few", 5, r=3, **chosen_experts(base)))
    return folders


def sequences(count: int, lengths: Sequence[int] = (5, 1, 9, 2, 7, 1, 4, 3)) -> list[Tensor]:
    rng = torch.Generator().manual_seed(11)
    return [torch.randint(3, 256, (lengths[i % len(lengths)],), generator=rng) for i in range(count)]


def packed(loaded: Loaded, rows: Sequence[Tensor]) -> Tensor:
    """Logits (T, V) of a ragged row of sequences."""
    bounds = torch.tensor([0, *torch.tensor([len(row) for row in rows]).cumsum(0)], dtype=torch.int32)
    longest = max(map(len, rows))
    with torch.no_grad():
        output: Tensor = loaded.model(
            input_ids=torch.cat(list(rows))[None],
            position_ids=torch.cat([torch.arange(len(row)) for row in rows])[None],
            cu_seq_lens_q=bounds,
            cu_seq_lens_k=bounds,
            max_length_q=longest,
            max_length_k=longest,
            use_cache=False,
        ).logits[0]
    return output


def alone(base: str, folder: Path | None, row: Tensor) -> Tensor:
    """Logits of one sequence through the adapter attached as in training."""
    loaded = load_model(f"tiny/{base}", dtype="float64")
    if folder is not None:
        load_adapter(loaded, folder)
    with torch.no_grad():
        output: Tensor = loaded.model(row[None], use_cache=False).logits[0]
    return output


def resident(loaded: Loaded, folders: Sequence[Path], **limits: int) -> tuple[Slots, list[str]]:
    slots = Slots(loaded, **limits)
    return slots, [slots.publish(slots.prepare(folder, folder.name)) for folder in folders]


@pytest.mark.parametrize("base", PACKING)
@pytest.mark.parametrize("fused", [False, True], ids=["stock", "fused"])
def test_a_mixed_batch_is_each_adapter_alone_token_by_token(base, fused, made):
    folders = variety(base, made)
    loaded = load_model(f"tiny/{base}", dtype="float64")
    slots, keys = resident(loaded, folders)
    if fused:
        fuse(loaded.model)
        assert any(isinstance(module, FusedMLP) for module in loaded.model.modules())
    who = [keys[0], keys[1], keys[2], None, *keys[3:], keys[1], None]  # ordered at first, then not
    rows = sequences(len(who))
    with slots.using(who, [len(row) for row in rows]):
        mixed = packed(loaded, rows).split([len(row) for row in rows])
    for key, row, got in zip(who, rows, mixed, strict=True):
        folder = None if key is None else folders[keys.index(key)]
        want = alone(base, folder, row)
        # Norms, and V2's rotation, round to float32 even in a float64 model, and a last bit may tip them.
        torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
    assert (mixed[0] - alone(base, None, rows[0])).abs().max() > 0.1


@pytest.mark.parametrize("base", PACKING)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_base_rows_are_the_bases_own_bit_for_bit(base, dtype, made):
    rows = sequences(6)
    want = packed(load_model(f"tiny/{base}", dtype=dtype), rows).split([len(row) for row in rows])
    loaded = load_model(f"tiny/{base}", dtype=dtype)
    slots, keys = resident(loaded, variety(base, made)[-2:])
    with slots.using([None] * 6, [len(row) for row in rows]):
        assert torch.equal(packed(loaded, rows), torch.cat(want))
    who = [keys[0], None, keys[1], None, keys[0], None]
    with slots.using(who, [len(row) for row in rows]):
        got = packed(loaded, rows).split([len(row) for row in rows])
    # Other rows' routing changes how many rows an expert multiplies at once: rounding, as in any batch.
    bitwise = base in ("llama", "qwen2")
    for key, ours, base_alone in zip(who, got, want, strict=True):
        if key is None and bitwise:
            assert torch.equal(ours, base_alone)
        elif key is None:
            torch.testing.assert_close(ours, base_alone)
        else:
            assert (ours - base_alone).abs().max() > 0.05


@pytest.mark.parametrize("base", [*ALONE, "deepseek_v3"])
def test_one_sequence_at_a_time_decodes_with_transformers_cache(base, made):
    folder = made(base, "one")
    (row,) = sequences(1, [12])
    loaded = load_model(f"tiny/{base}", dtype="float64")
    slots, (key,) = resident(loaded, [folder])
    attached = load_adapter(load_model(f"tiny/{base}", dtype="float64"), folder)
    ours, theirs = None, None
    for part in (row[:10], row[10:11], row[11:]):
        with torch.no_grad(), slots.using([key], [len(part)]):
            got = loaded.model(part[None], past_key_values=ours, use_cache=True)
        with torch.no_grad():
            want = attached.model(part[None], past_key_values=theirs, use_cache=True)
        ours, theirs = got.past_key_values, want.past_key_values
        torch.testing.assert_close(got.logits, want.logits, rtol=0, atol=1e-6)


def test_rows_that_were_not_told_of_are_refused(made):
    loaded = load_model("tiny/llama")
    slots, (key,) = resident(loaded, [made("llama", "one")])
    with (
        slots.using([key, None], [4, 4]),
        pytest.raises(AdapterError, match=r"12 rows in a forward .* for 8"),
    ):
        packed(loaded, sequences(1, [12]))


def test_an_active_adapter_waits_outside_and_is_back_afterwards(made):
    one, two = made("llama", "one"), made("llama", "two", 2)
    loaded = load_model("tiny/llama", dtype="float64")
    slots, (key,) = resident(loaded, [one])
    load_adapter(loaded, two, name="two")
    (row,) = sequences(1)
    with slots.using([key], [len(row)]):
        torch.testing.assert_close(packed(loaded, [row]), alone("llama", one, row), rtol=0, atol=1e-6)
    with slots.using([None], [len(row)]):
        torch.testing.assert_close(packed(loaded, [row]), alone("llama", None, row), rtol=0, atol=1e-6)
    torch.testing.assert_close(packed(loaded, [row]), alone("llama", two, row), rtol=0, atol=1e-6)
    detach(loaded)
    with slots.using([key], [len(row)]):
        torch.testing.assert_close(packed(loaded, [row]), alone("llama", one, row), rtol=0, atol=1e-6)


def test_terms_tell_other_forms_of_a_linear_what_is_added_to_it(made):
    folder = made("deepseek_v3", "one")
    loaded = load_model("tiny/deepseek_v3", dtype="float64")
    slots, (key,) = resident(loaded, [folder])
    linear = loaded.model.model.layers[0].self_attn.kv_b_proj
    x = torch.randn(3, linear.in_features, dtype=torch.float64)
    assert linear.terms() == []
    with slots.using([key, None], [2, 1]):
        (term,) = linear.terms()
        added = linear(x) - linear.base_layer(x)
    torch.testing.assert_close(added[term.rows], x[term.rows] @ term.a[0].t() @ term.b[0])
    assert torch.equal(added[2], torch.zeros_like(added[2]))
    load_adapter(loaded, folder)
    (attached,) = linear.terms()
    assert attached.rows == slice(None)
    torch.testing.assert_close(attached.a @ x.t(), term.a @ x.t())
    torch.testing.assert_close(attached.b, term.b)


def test_closing_leaves_the_very_same_modules(made):
    loaded = load_model("tiny/deepseek_v3")
    before = dict(loaded.model.named_modules())
    slots, _ = resident(loaded, [made("deepseek_v3", "one")])
    assert dict(loaded.model.named_modules()) != before
    slots.close()
    assert dict(loaded.model.named_modules()) == before
    with closing(Slots(loaded)):
        pass


def test_a_model_has_one_set_of_slots():
    loaded = load_model("tiny/llama")
    with closing(Slots(loaded)), pytest.raises(AdapterError, match="slots already"):
        Slots(loaded)


@pytest.fixture
def small(made) -> Iterator[tuple[Slots, Callable[..., Staged]]]:
    """Two slots on tiny/llama, and a way to stage adapter one, two, three."""
    folders = {name: made("llama", name, seed) for seed, name in enumerate(("one", "two", "three"), 1)}
    slots = Slots(load_model("tiny/llama"), max_slots=2, max_rank=8)
    yield slots, lambda name, timeout=0.0: slots.prepare(folders[name], name, timeout=timeout)
    slots.close()


def test_a_key_names_the_content(small):
    slots, stage = small
    staged = stage("one")
    assert slots.keys == ()
    assert slots.publish(staged) == staged.key == f"one@{staged.content_hash[:16]}"
    assert slots.keys == (staged.key,)
    assert slots.used_bytes == staged.bytes > 0


def test_requests_finish_on_a_retired_adapter_which_is_freed_after_the_last(small):
    slots, stage = small
    key = slots.publish(stage("one"))
    slots.acquire(key)
    slots.acquire(key)
    slots.retire(key)
    with pytest.raises(AdapterError, match="is not loaded"):
        slots.acquire(key)
    slots.release(key)
    assert slots.slot_of(key) == 0
    assert slots.used_bytes > 0
    slots.release(key)
    assert slots.used_bytes == 0
    with pytest.raises(AdapterError, match="is not resident"):
        slots.slot_of(key)


def test_a_full_house_refuses_and_says_who_is_in(small):
    slots, stage = small
    slots.publish(stage("one"))
    slots.publish(stage("two"))
    with pytest.raises(AdapterError, match=r"all 2 slots are taken by one@.*, two@"):
        stage("three")


def test_prepare_waits_for_a_slot_to_be_freed(small):
    slots, stage = small
    staged = stage("one")
    key = slots.publish(staged)
    slots.acquire(key)
    slots.publish(stage("two"))
    slots.retire(key)
    timer = threading.Timer(0.1, slots.release, (key,))
    timer.start()
    again = stage("three", timeout=60)
    timer.join()
    assert again.slot == staged.slot


def test_a_discarded_adapter_gives_back_slot_and_memory(small):
    slots, stage = small
    for _ in range(3):
        slots.discard(stage("one"))
    assert slots.used_bytes == 0


def test_publishing_what_is_resident_keeps_the_resident_one_and_revives_it(small):
    slots, stage = small
    key = slots.publish(stage("one"))
    slots.acquire(key)
    slots.retire(key)
    second = stage("one")
    assert slots.publish(second) == key
    assert slots.keys == (key,)
    assert slots.slot_of(key) == 0
    assert slots.used_bytes == second.bytes


def test_a_slot_used_again_has_nothing_left_of_its_last_adapter(made):
    first, second = made("deepseek_v3", "one"), made("deepseek_v3", "two", 2, r=2, target_modules=["o_proj"])
    loaded = load_model("tiny/deepseek_v3", dtype="float64")
    slots, (key,) = resident(loaded, [first], max_slots=1)
    slots.retire(key)
    key = slots.publish(slots.prepare(second, "two"))
    (row,) = sequences(1)
    with slots.using([key], [len(row)]):
        torch.testing.assert_close(
            packed(loaded, [row]), alone("deepseek_v3", second, row), rtol=0, atol=1e-9
        )


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"max_rank": 3}, "rank 4, above the largest allowed, 3"),
        ({"max_bytes": 1000}, "at most 1,000 are allowed"),
    ],
)
def test_limits_are_refused_by_name_and_change_nothing(limits, reason, made):
    slots = Slots(load_model("tiny/llama"), **limits)
    with pytest.raises(AdapterError, match=reason):
        slots.prepare(made("llama", "one"), "one")
    assert slots.used_bytes == 0


def test_memory_is_bounded_over_all_adapters(made):
    one, two = made("llama", "one"), made("llama", "two", 2)
    loaded = load_model("tiny/llama")
    probe = Slots(loaded)
    size = probe.prepare(one, "one").bytes
    probe.close()
    slots, _ = resident(loaded, [one], max_bytes=int(1.9 * size))
    with pytest.raises(AdapterError, match="the memory is taken by one@"):
        slots.prepare(two, "two")


def test_a_release_too_many_is_an_error(small):
    slots, stage = small
    key = slots.publish(stage("one"))
    with pytest.raises(AdapterError, match="more often"):
        slots.release(key)


@pytest.mark.gpu
def test_a_gpu_mixes_as_the_cpu_does(made):
    folders = variety("deepseek_v3", made)
    rows = sequences(4)
    outputs = []
    for device in ("cpu", "cuda"):
        loaded = load_model("tiny/deepseek_v3", device=device)
        slots, keys = resident(loaded, folders[:3])
        with slots.using([*keys, None], [len(row) for row in rows]):
            outputs.append(packed(loaded, [row.to(device) for row in rows]).cpu())
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-3)
