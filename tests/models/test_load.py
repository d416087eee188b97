from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from seektune.errors import ModelError
from seektune.models.checkpoint import dequantised_bytes
from seektune.models.identity import checkpoint_identity
from seektune.models.load import load_model
from seektune.models.tiny import TINY, tiny_model

Checkpoint = Callable[..., Path]
IDS = torch.arange(3, 23)[None]
BLOCK = 8


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def configure(folder: Path, **settings: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | settings))


def to_fp8(folder: Path) -> dict[str, Tensor]:
    """Store the projections in fp8 as DeepSeek does, one scale per block; returns their exact values."""
    exact: dict[str, Tensor] = {}

    def quantise(tensors: dict[str, Tensor]) -> None:
        for name, value in list(tensors.items()):
            tensors[name] = value.bfloat16()
            if value.ndim == 2 and "proj" in name:
                scale = torch.nn.functional.max_pool2d(value.abs()[None], BLOCK)[0] / 448
                spread = scale.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
                tensors[name] = (value / spread).to(torch.float8_e4m3fn)
                tensors[f"{name}_scale_inv"] = scale
                exact[name] = tensors[name].float() * spread

    edit(folder, quantise)
    fp8 = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    configure(folder, dtype="bfloat16", quantization_config=fp8 | {"weight_block_size": [BLOCK, BLOCK]})
    return exact


@pytest.mark.parametrize("name", TINY)
def test_a_saved_model_loads_with_equal_logits_and_identity(name: str, checkpoint: Checkpoint) -> None:
    tiny, saved = load_model(f"tiny/{name}"), load_model(checkpoint(name))
    assert saved.identity == tiny.identity
    assert saved.family is tiny.family
    assert not saved.model.training
    with torch.no_grad():
        assert torch.equal(saved.model(input_ids=IDS).logits, tiny.model(input_ids=IDS).logits)


def test_a_tiny_model_comes_with_tokenizer_template_and_its_source() -> None:
    loaded = load_model("tiny/deepseek_v3", device="cpu")
    assert loaded.source == "tiny/deepseek_v3"
    assert loaded.template == "deepseek_v3"
    assert loaded.device == torch.device("cpu")
    assert loaded.tokenizer is not None
    text = loaded.tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False)
    assert text.endswith("<｜User｜>hi")


def test_a_head_tied_to_the_embeddings_is_not_missing(tmp_path: Path) -> None:
    config = tiny_model("llama")[0].config
    config.tie_word_embeddings = True
    tied = LlamaForCausalLM(config)
    tied.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path).model(input_ids=IDS).logits, tied(input_ids=IDS).logits)


def test_no_loading_bar_is_drawn_where_standard_error_is_piped(
    checkpoint: Checkpoint, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, shown = checkpoint("llama"), transformers_logging.is_progress_bar_enabled()
    capfd.readouterr()
    load_model(folder)
    assert "Loading" not in capfd.readouterr().err
    assert transformers_logging.is_progress_bar_enabled() == shown


def test_the_seed_changes_a_tiny_model_and_its_identity() -> None:
    assert load_model("tiny/llama", seed=1).identity != load_model("tiny/llama").identity


def test_a_folder_without_tokenizer_files_has_no_tokenizer(checkpoint: Checkpoint) -> None:
    assert load_model(checkpoint()).tokenizer is None


def test_a_folder_with_tokenizer_files_has_its_tokenizer(checkpoint: Checkpoint) -> None:
    folder, tokenizer = checkpoint(), tiny_model("llama")[1]
    tokenizer.save_pretrained(folder)
    loaded = load_model(str(folder)).tokenizer
    assert loaded is not None
    assert loaded("héllo").input_ids == tokenizer("héllo").input_ids


def test_a_damaged_tokenizer_is_an_error_with_a_way_out(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="without its files the model loads alone"):
        load_model(folder)


def test_dtype_is_the_checkpoints_unless_named(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    edit(folder, lambda tensors: tensors.update({name: t.bfloat16() for name, t in tensors.items()}))
    configure(folder, dtype="bfloat16")
    assert load_model(folder).model.dtype == torch.bfloat16
    assert load_model(folder, dtype="float32").model.dtype == torch.float32
    assert load_model(folder, dtype=torch.float64).model.dtype == torch.float64


@pytest.mark.parametrize("name", ["llama", "deepseek_v3", "deepseek_v4"])
def test_identity_does_not_depend_on_the_dtype_loaded(name: str, checkpoint: Checkpoint) -> None:
    folder = checkpoint(name)
    loaded = [load_model(folder, dtype=dtype) for dtype in ("auto", "bfloat16", "float64")]
    tiny = [load_model(f"tiny/{name}", dtype=dtype) for dtype in ("auto", "bfloat16", "float64")]
    assert len({one.identity for one in [*loaded, *tiny]}) == 1


def test_an_unknown_dtype_names_the_known_ones() -> None:
    with pytest.raises(ModelError, match="'int8' is unknown: use auto, float32, bfloat16"):
        load_model("tiny/llama", dtype="int8")


def test_v4_in_float16_is_refused_naming_bfloat16(checkpoint: Checkpoint) -> None:
    for source in ("tiny/deepseek_v4", checkpoint("deepseek_v4")):
        with pytest.raises(ModelError, match="use bfloat16"):
            load_model(source, dtype="float16")


@pytest.mark.parametrize("name", [name for name in TINY if name != "deepseek_v4"])
def test_the_others_run_in_float16(name: str) -> None:
    with torch.no_grad():
        assert load_model(f"tiny/{name}", dtype="float16").model(input_ids=IDS).logits.isfinite().all()


def test_fp8_is_refused_with_the_switch_and_the_size(checkpoint: Checkpoint) -> None:
    folder = checkpoint("deepseek_v3")
    to_fp8(folder)
    with pytest.raises(ModelError, match=r"fp8 weights.*`dequantize: true`.*about \d+\.\d GB"):
        load_model(folder)


@pytest.mark.parametrize("dtype", ["auto", "float32"])
@pytest.mark.parametrize("name", ["llama", "deepseek_v2", "deepseek_v3"])
def test_fp8_loads_dequantised_when_asked_and_prints_the_size(
    name: str, dtype: str, checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture
) -> None:
    folder = checkpoint(name)
    exact = to_fp8(folder)
    with caplog.at_level(logging.WARNING, "seektune"):
        loaded = load_model(folder, dequantize=True, dtype=dtype)
    assert "GB" in caplog.text
    wanted = torch.bfloat16 if dtype == "auto" else torch.float32
    state = loaded.model.state_dict()
    kept = [key for key, tensor in state.items() if tensor.dtype != wanted]
    assert all(key.endswith("e_score_correction_bias") for key in kept)
    shared = exact.keys() & state.keys()
    assert shared
    for key in shared:
        rounding = 2**-8 if wanted == torch.bfloat16 else 0
        torch.testing.assert_close(state[key].float(), exact[key], rtol=rounding, atol=0)
    with torch.no_grad():
        assert loaded.model(input_ids=IDS).logits.isfinite().all()


def test_the_printed_size_is_that_of_the_loaded_model(checkpoint: Checkpoint) -> None:
    folder = checkpoint("deepseek_v3")
    to_fp8(folder)
    state = load_model(folder, dequantize=True).model.state_dict()
    size = sum(tensor.numel() * tensor.itemsize for tensor in state.values())
    assert dequantised_bytes(folder, torch.bfloat16.itemsize) == pytest.approx(size, rel=1e-3)


def test_dequantising_what_is_not_quantised_is_an_error(checkpoint: Checkpoint) -> None:
    for source in ("tiny/llama", checkpoint()):
        with pytest.raises(ModelError, match="not quantised: remove it"):
            load_model(source, dequantize=True)


def test_a_null_quantisation_is_none(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    configure(folder, quantization_config=None)
    assert load_model(folder).model.dtype == torch.float32


def test_another_quantisation_is_refused(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    configure(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModelError, match="'gptq': load the unquantised checkpoint"):
        load_model(folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), r"missing keys: 1 \(model\.norm\.weight\)"),
        (lambda tensors: tensors.update(extra=torch.ones(2)), r"unexpected keys: 1 \(extra\)"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.ones(3)}), "mismatched keys: 1"),
        (
            lambda tensors: tensors.pop("model.layers.1.mlp.experts.3.gate_proj.weight"),
            "does not load as deepseek_v3",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_an_error(
    change: Callable[[dict[str, Tensor]], object], complaint: str, checkpoint: Checkpoint
) -> None:
    folder = checkpoint("deepseek_v3")
    edit(folder, change)
    with pytest.raises(ModelError, match=complaint):
        load_model(folder)


def test_a_config_the_class_refuses_is_an_error_naming_the_folder(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    configure(folder, hidden_size="wide")
    with pytest.raises(ModelError, match=r"checkpoint does not load as llama.*hidden_size"):
        load_model(folder)


def test_a_truncated_checkpoint_is_named_before_anything_loads(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors has \d+ bytes where .* fetch it again"):
        load_model(folder)


def test_a_pickled_checkpoint_is_refused(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    torch.save({"a": torch.ones(1)}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="pickle file"):
        load_model(folder)


def test_deepseek_moe_v1_is_refused_before_its_weights_are_read(checkpoint: Checkpoint) -> None:
    folder = checkpoint()
    configure(folder, model_type="deepseek")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="DeepSeek-MoE v1"):
        load_model(folder)


def test_remote_code_named_by_a_checkpoint_is_never_run(checkpoint: Checkpoint) -> None:
    folder = checkpoint("deepseek_v3")
    configure(folder, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('remote code ran')")
    assert type(load_model(folder).model).__module__.startswith("transformers.")


def test_the_checkpoint_identity_is_the_loaded_one(checkpoint: Checkpoint) -> None:
    folder = checkpoint("deepseek_v2")
    assert load_model(folder).identity == checkpoint_identity(folder)
