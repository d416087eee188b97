"""A finished run's adapter for another program."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from tiny_runs import tiny_config, write_rows

from seektune.adapters.store import load_adapter
from seektune.errors import AdapterError, ConfigError
from seektune.generation.generate import encode_prompt
from seektune.models.load import load_model
from seektune.models.tiny import tiny_model
from seektune.recipes import export, train
from seektune.types import Message


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_a_run_on_a_base_in_a_folder_is_written_for_vllm_and_its_name_printed(tmp_path: Path) -> None:
    base = tmp_path / "base"
    model, tokenizer = tiny_model("llama")
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    write_rows(tmp_path / "rows.jsonl")
    lora = {"r": 4, "target_modules": ["attention", "dense"]}
    run = train.run(tiny_config(tmp_path, "medical", base_model=str(base), lora=lora), console=quiet())
    page = io.StringIO()
    export.run(run, to="vllm", out=tmp_path / "out", console=Console(file=page, width=200))
    (folder,) = (tmp_path / "out" / "adapters").iterdir()
    assert re.fullmatch(r"medical@[0-9a-f]{16}", folder.name)
    assert page.getvalue() == f"wrote {tmp_path}/out: {folder.name}; next: {tmp_path}/out/serve.sh\n"
    tensors = load_file(folder / "adapter_model.safetensors")
    stored = load_file(run / "adapter" / "adapter_model.safetensors")
    assert tensors.keys() == stored.keys()
    assert all(torch.equal(tensors[name], stored[name]) for name in stored)


def test_peft_s_form_of_a_run_loads_as_the_run_does(finished: Path, tmp_path: Path) -> None:
    export.run(finished, to="peft", out=tmp_path / "out", console=quiet())
    load_adapter(load_model("tiny/deepseek_v3"), tmp_path / "out")
    assert (tmp_path / "out" / "adapter_config.json").exists()


def test_a_merged_run_is_a_base_that_answers_as_the_run_does(finished: Path, tmp_path: Path) -> None:
    page = io.StringIO()
    export.run(finished, to="merged", out=tmp_path / "out", console=Console(file=page, width=200))
    assert page.getvalue() == f"wrote {tmp_path}/out, a model that needs no adapter\n"
    live = load_adapter(load_model("tiny/deepseek_v3"), finished / "adapter")
    merged = load_model(tmp_path / "out")
    ids = torch.tensor([encode_prompt(live, [Message("user", "Case 1: the heart hurts")])])
    with torch.no_grad():
        expected = live.model(ids, use_cache=False).logits
        torch.testing.assert_close(merged.model(ids, use_cache=False).logits, expected, rtol=0, atol=1e-4)
    assert encode_prompt(merged, "text") == encode_prompt(live, "text")


def test_what_vllm_would_drop_is_an_error_and_nothing_is_written(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="vLLM"):
        export.run(finished, to="vllm", out=tmp_path / "out", console=quiet())
    assert not list(tmp_path.iterdir())


def test_unknown_targets_existing_folders_and_unfinished_runs_are_named(
    finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--to 'gguff' is unknown: use vllm, peft, merged, triton"):
        export.run(finished, to="gguff", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="exists already"):
        export.run(finished, to="vllm", out=tmp_path)
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "run.yaml").write_text((finished / "run.yaml").read_text())
    with pytest.raises(ConfigError, match="has no adapter yet: finish it with `seektune train"):
        export.run(unfinished, to="vllm", out=tmp_path / "out")
    with pytest.raises(ConfigError, match="not a run folder"):
        export.run(tmp_path / "none", to="vllm", out=tmp_path / "out")


def test_triton_s_form_is_a_repository_with_the_run_s_own_dtype(finished: Path, tmp_path: Path) -> None:
    page = io.StringIO()
    export.run(
        finished,
        to="triton",
        out=tmp_path / "out",
        settings=["kind=gpu"],
        console=Console(file=page, width=200),
    )
    assert page.getvalue() == (
        f"wrote {tmp_path}/out: Triton's model deepseek_v3; next: {tmp_path}/out/README.md\n"
    )
    config = (tmp_path / "out" / "models" / "deepseek_v3" / "config.pbtxt").read_text()
    assert 'key: "dtype" value { string_value: "auto" }' in config
    assert "KIND_GPU" in config


def test_settings_are_triton_s_and_are_checked_before_anything_is_loaded(
    finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="--set is for --to triton: peft has no settings"):
        export.run(finished, to="peft", out=tmp_path / "out", settings=["kind=gpu"])
    with pytest.raises(ConfigError, match="--set: kynd: unknown key; did you mean kind"):
        export.run(finished, to="triton", out=tmp_path / "out", settings=["kynd=gpu"])
