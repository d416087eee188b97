"""Adapter folders: round trips through the real PEFT and ourselves, and hostile input."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seektune.adapters.attach import active_adapter, adapters, deltas_of, disabled, spec_of
from seektune.adapters.store import COMPACT, CONFIG, MANIFEST, WEIGHTS, load_adapter, save_adapter
from seektune.config.adapter import AdapterSpec
from seektune.errors import AdapterError
from seektune.models.load import Loaded, load_model
from seektune.models.tiny import tiny_model

Build = Callable[..., Loaded]
Logits = Callable[[nn.Module], Tensor]

TEXT_GROUPS = {
    "llama": ("attention", "dense"),
    "qwen2": ("attention", "dense"),
    "deepseek_v2": ("attention", "dense", "shared", "routed"),
    "deepseek_v2_lite": ("attention", "dense", "shared", "routed"),
    "deepseek_v3": ("attention", "dense", "shared", "routed"),
    "deepseek_v32": ("attention", "dense", "shared", "routed"),
    "deepseek_v4": ("attention", "shared", "routed"),
    "deepseek_vl": ("attention", "dense"),
    "deepseek_vl_hybrid": ("attention", "dense"),
}
CASES = [
    (name, targets) for name, groups in TEXT_GROUPS.items() for targets in [*((g,) for g in groups), groups]
]
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def _peft(name: str, folder: Path) -> nn.Module:
    """The adapter as the real PEFT loads it, in float64 (where transformers has no grouped product)."""
    model = tiny_model(name, dtype=torch.float64)[0]
    if "routed" in TEXT_GROUPS[name]:
        model.set_experts_implementation("eager")
    return PeftModel.from_pretrained(model, folder).eval()


@pytest.mark.parametrize(("name", "targets"), CASES)
def test_what_we_save_peft_and_we_load_with_equal_logits(
    name: str, targets: tuple[str, ...], trained: Build, logits: Logits, tmp_path: Path
) -> None:
    loaded = trained(name, target_modules=targets)
    ours = logits(loaded.model)
    with disabled(loaded):
        assert (ours - logits(loaded.model)).abs().max() >= 0.1
    save_adapter(loaded, tmp_path / "adapter")
    assert (logits(_peft(name, tmp_path / "adapter")) - ours).abs().max() <= 1e-5
    again = load_adapter(load_model(f"tiny/{name}", dtype="float64"), tmp_path / "adapter")
    assert torch.equal(logits(again.model), ours)
    assert spec_of(again) == spec_of(loaded)


def _picture(loaded: Loaded, rows: Tensor) -> dict[str, Tensor]:
    ids = rows[:1].clone()
    ids[0, :16] = loaded.model.config.image_token_id
    pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return {"input_ids": ids, "pixel_values": pixels}


@pytest.mark.parametrize("targets", [("vision",), ("aligner",), ("vision", "aligner", "attention", "dense")])
def test_vision_and_aligner_survive_the_round_trip_too(
    targets: tuple[str, ...], adapted: Build, rows: Tensor, tmp_path: Path
) -> None:
    loaded = adapted("deepseek_vl", "float64", target_modules=targets, init_lora_weights=False)
    inputs = _picture(loaded, rows)
    save_adapter(loaded, tmp_path / "adapter")
    again = load_adapter(load_model("tiny/deepseek_vl", dtype="float64"), tmp_path / "adapter")
    with torch.no_grad():
        ours = loaded.model(**inputs).logits
        assert (_peft("deepseek_vl", tmp_path / "adapter")(**inputs).logits - ours).abs().max() <= 1e-5
        assert torch.equal(again.model(**inputs).logits, ours)
        with disabled(loaded):
            assert (loaded.model(**inputs).logits - ours).abs().max() >= 0.1


@pytest.mark.parametrize("name", ["deepseek_v2", "deepseek_v4"])
def test_a_chosen_subset_is_stored_compactly_and_comes_back(
    name: str, trained: Build, logits: Logits, tmp_path: Path
) -> None:
    loaded = trained(name, target_modules=["attention", "routed"], experts={1: (0, 3, 5)})
    save_adapter(loaded, tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [MANIFEST, COMPACT]
    stored = load_file(tmp_path / "adapter" / COMPACT)
    assert stored["model.layers.1.mlp.experts.gate_up_A"].shape == (3, 4, 64)
    again = load_adapter(load_model(f"tiny/{name}", dtype="float64"), tmp_path / "adapter")
    assert torch.equal(logits(again.model), logits(loaded.model))
    assert spec_of(again).experts == {1: (0, 3, 5)}


def test_all_experts_chosen_by_name_are_stored_as_peft_stores_them(adapted: Build, tmp_path: Path) -> None:
    loaded = adapted("deepseek_v4", target_modules=["routed"], experts={2: tuple(range(8))})
    save_adapter(loaded, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / CONFIG).read_text())
    assert config["target_parameters"] == [
        f"model.layers.2.mlp.experts.{p}_proj" for p in ("down", "gate_up")
    ]
    assert len(load_adapter(load_model("tiny/deepseek_v4"), tmp_path / "adapter").model.attachment.specs) == 1


def test_a_bfloat16_base_has_a_float32_adapter_on_disk(
    adapted: Build, logits: Logits, tmp_path: Path
) -> None:
    loaded = adapted(
        "deepseek_v3", "bfloat16", target_modules=["attention", "routed"], init_lora_weights=False
    )
    save_adapter(loaded, tmp_path / "adapter")
    assert {t.dtype for t in load_file(tmp_path / "adapter" / WEIGHTS).values()} == {torch.float32}
    # The base's identity is that of the stored weights: it may be loaded in another dtype.
    again = load_adapter(load_model("tiny/deepseek_v3", dtype="bfloat16"), tmp_path / "adapter")
    assert torch.equal(logits(again.model), logits(loaded.model))
    load_adapter(load_model("tiny/deepseek_v3"), tmp_path / "adapter")


def test_the_manifest_says_what_peft_cannot(adapted: Build, tmp_path: Path) -> None:
    loaded = adapted("deepseek_v3", target_modules=["dense"], lora_dropout=0.2)
    save_adapter(loaded, tmp_path)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    assert manifest["base"] == {
        "identity": loaded.identity,
        "source": "tiny/deepseek_v3",
        "model_type": "deepseek_v3",
    }
    assert set(manifest["versions"]) == {"seektune", "torch", "transformers"}
    assert manifest["spec"]["lora_dropout"] == 0.2
    assert json.loads((tmp_path / CONFIG).read_text())["lora_dropout"] == 0.0
    (delta, *_) = deltas_of(load_adapter(load_model("tiny/deepseek_v3"), tmp_path), "default").values()
    assert delta.dropout == 0.2


def test_the_content_hash_names_the_content(adapted: Build, tmp_path: Path) -> None:
    hashes = []
    for folder, spec in (("a", {}), ("b", {}), ("c", {"lora_alpha": 9}), ("d", {"init_lora_weights": False})):
        save_adapter(adapted("llama", **spec), tmp_path / folder)
        hashes.append(json.loads((tmp_path / folder / MANIFEST).read_text())["content_hash"])
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_an_adapter_can_be_loaded_twice_under_two_names(trained: Build, tmp_path: Path) -> None:
    save_adapter(trained("llama", "float32"), tmp_path / "adapter")
    loaded = load_adapter(load_model("tiny/llama"), tmp_path / "adapter", name="one")
    load_adapter(loaded, tmp_path / "adapter", name="two")
    assert adapters(loaded) == ("one", "two")
    assert active_adapter(loaded) == "two"


def test_saving_again_replaces_the_folder_and_leaves_nothing_beside_it(
    adapted: Build, tmp_path: Path
) -> None:
    save_adapter(adapted("deepseek_v3", target_modules=["routed"], experts={1: (2,)}), tmp_path / "adapter")
    save_adapter(adapted("deepseek_v3"), tmp_path / "adapter")
    assert {path.name for path in (tmp_path / "adapter").iterdir()} == {CONFIG, WEIGHTS, MANIFEST}
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_failed_save_leaves_the_old_adapter_untouched(adapted: Build, tmp_path: Path) -> None:
    loaded = adapted("llama")
    save_adapter(loaded, tmp_path / "adapter")
    before = (tmp_path / "adapter" / WEIGHTS).read_bytes()
    (delta, *_) = deltas_of(loaded, "default").values()
    delta.lora_B.data[0, 0] = float("nan")
    with pytest.raises(AdapterError, match=r"not finite, so it is not saved: .*q_proj.lora_B.weight"):
        save_adapter(loaded, tmp_path / "adapter")
    assert (tmp_path / "adapter" / WEIGHTS).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_a_folder_with_other_files_is_never_replaced(adapted: Build, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(AdapterError, match=r"holds other files \(thesis.tex\)"):
        save_adapter(adapted("llama"), tmp_path)
    with pytest.raises(AdapterError, match="is a file"):
        save_adapter(adapted("llama"), tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.fixture
def folder(adapted: Build, tmp_path: Path) -> Path:
    """A good adapter folder of tiny/llama to be spoilt, with no seektune.json to notice first."""
    save_adapter(adapted("llama", target_modules=["o_proj"]), tmp_path / "adapter")
    (tmp_path / "adapter" / MANIFEST).unlink()
    return tmp_path / "adapter"


def _refused(folder: Path, words: str) -> str:
    loaded = load_model("tiny/llama")
    with pytest.raises(AdapterError, match=words) as caught:
        load_adapter(loaded, folder)
    assert adapters(loaded) == ()
    return str(caught.value)


def test_the_wrong_base_is_named_with_both_identities_and_the_fix(adapted: Build, tmp_path: Path) -> None:
    save_adapter(adapted("llama"), tmp_path / "adapter")
    other = load_model("tiny/llama", seed=1)
    with pytest.raises(AdapterError, match="load that base, or give an adapter") as caught:
        load_adapter(other, tmp_path / "adapter")
    assert other.identity[:12] in str(caught.value)
    assert load_model("tiny/llama").identity[:12] in str(caught.value)
    with pytest.raises(AdapterError, match="trained on the base tiny/llama"):
        load_adapter(load_model("tiny/qwen2"), tmp_path / "adapter")


def test_content_that_was_changed_after_saving_is_noticed(adapted: Build, tmp_path: Path) -> None:
    folder = save_adapter(adapted("llama"), tmp_path / "adapter")
    config = json.loads((folder / CONFIG).read_text()) | {"lora_alpha": 1000}
    (folder / CONFIG).write_text(json.dumps(config))
    _refused(folder, "not as seektune saved it")


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"base": {}}', '{"base": 1, "spec": {}, "content_hash": ""}']
)
def test_a_damaged_manifest_is_refused(content: str, folder: Path) -> None:
    (folder / MANIFEST).write_text(content)
    _refused(folder, MANIFEST)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    for length in (0, 5, len(content) // 2, len(content) - 1):
        (folder / WEIGHTS).write_bytes(content[:length])
        _refused(folder, "truncated or no safetensors file")


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return pytest.fail, ("the pickle was read",)


def test_a_pickle_is_never_read(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps(_Bomb()))
    _refused(folder, "truncated or no safetensors file")
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    _refused(folder, "adapter_model.bin, a pickle, which can run any code")


def test_an_empty_folder_and_a_missing_one_are_named(tmp_path: Path) -> None:
    _refused(tmp_path, "it is no adapter folder")
    _refused(tmp_path / "missing", "is not a folder")


def test_weights_without_their_description_are_refused(folder: Path) -> None:
    (folder / CONFIG).rename(folder / "config.json")
    _refused(folder, "cannot read .*adapter_config.json")
    (folder / WEIGHTS).rename(folder / COMPACT)
    _refused(folder, "has seektune_adapter.safetensors but no seektune.json")
    (folder / WEIGHTS).touch()
    _refused(folder, "holds both")


def test_one_error_lists_everything_that_does_not_fit(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    first, second, third, fourth = sorted(tensors)
    tensors[first] = tensors[first][:, :-1].contiguous()
    tensors[second] = torch.full_like(tensors[second], float("nan"))
    tensors[third] = tensors[third].to(torch.float8_e4m3fn)
    tensors["base_model.model.lm_heda.lora_A.weight"] = tensors.pop(fourth)
    save_file(tensors, folder / WEIGHTS)
    message = _refused(folder, "does not fit this base")
    for line in (f"shape: {first}", f"not finite: {second}", f"dtype: {third}", f"missing: {fourth}"):
        assert line in message
    assert "unknown: base_model.model.lm_heda.lora_A.weight" in message


def test_a_compact_file_is_checked_as_strictly(adapted: Build, tmp_path: Path) -> None:
    loaded = adapted("deepseek_v3", target_modules=["routed"], experts={1: (1, 2)})
    folder = save_adapter(loaded, tmp_path / "adapter")
    tensors = load_file(folder / COMPACT)
    site = "model.layers.1.mlp.experts"
    tensors[f"{site}.down_B"][1, 2, 3] = float("inf")
    tensors[f"{site}.gate_up_A"] = tensors[f"{site}.gate_up_A"][:1].clone()
    save_file(tensors, folder / COMPACT)
    with pytest.raises(AdapterError, match="does not fit this base") as caught:
        load_adapter(load_model("tiny/deepseek_v3"), folder)
    assert f"not finite: {site}.down_B" in str(caught.value)
    assert f"shape: {site}.gate_up_A is (1, 4, 64), not (2, 4, 64)" in str(caught.value)


def test_what_fits_but_was_changed_since_it_was_saved_is_refused_too(adapted: Build, tmp_path: Path) -> None:
    folder = save_adapter(
        adapted("deepseek_v3", target_modules=["routed"], experts={1: (1, 2)}), tmp_path / "adapter"
    )
    tensors = load_file(folder / COMPACT)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, folder / COMPACT)
    with pytest.raises(AdapterError, match="content hash differs"):
        load_adapter(load_model("tiny/deepseek_v3"), folder)


def test_a_folder_outside_the_root_is_refused_by_every_way_out(folder: Path) -> None:
    root = folder.parent / "adapters"
    (root / "inner").mkdir(parents=True)
    load_adapter(load_model("tiny/llama"), folder, root=folder.parent)
    (root / "link").symlink_to(folder)
    (folder.parent / "adapters-evil").symlink_to(folder)
    for path in (root / ".." / "adapter", root / "link", folder.parent / "adapters-evil", Path("/")):
        with pytest.raises(AdapterError, match="leads outside"):
            load_adapter(load_model("tiny/llama"), path, root=root)
    (root / "inner" / CONFIG).write_bytes((folder / CONFIG).read_bytes())
    (root / "inner" / WEIGHTS).symlink_to(folder / WEIGHTS)
    load_adapter(load_model("tiny/llama"), root / "inner")
    with pytest.raises(AdapterError, match="leads outside"):
        load_adapter(load_model("tiny/llama"), root / "inner", root=root)


def test_the_spec_in_the_manifest_is_the_spec_that_was_attached(adapted: Build, tmp_path: Path) -> None:
    spec = AdapterSpec(
        r=3, lora_alpha=5, target_modules=["routed", "q_a_proj"], use_rslora=True, experts={1: (7,)}
    )
    loaded = adapted("deepseek_v3", **spec.model_dump())
    save_adapter(loaded, tmp_path)
    assert spec_of(load_adapter(load_model("tiny/deepseek_v3"), tmp_path)) == spec
