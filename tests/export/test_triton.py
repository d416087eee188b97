"""A model repository as Triton and our model class read it."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from seektune.adapters.attach import attach
from seektune.adapters.store import save_adapter
from seektune.config.adapter import AdapterSpec
from seektune.config.triton import triton_config, triton_export
from seektune.errors import AdapterError, ConfigError
from seektune.export import triton
from seektune.export.triton import export_triton
from seektune.models.load import Loaded, load_model
from seektune.serving import triton_model

GIVEN = {"base_model": "tiny/llama", "dtype": "float32", "dequantize": False}


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = AdapterSpec(r=4, target_modules=["attention"])
    return save_adapter(attach(load_model("tiny/llama"), spec), tmp_path_factory.mktemp("run") / "adapter")


@pytest.fixture(scope="module")
def base() -> Loaded:
    return load_model("tiny/llama")


def parameters(config: str) -> dict[str, str]:
    found = re.findall(
        r'^parameters \{ key: (".*?") value \{ string_value: (".*") \} \}$', config, re.MULTILINE
    )
    return {json.loads(key): json.loads(value) for key, value in found}


def test_the_repository_is_whole_and_its_configuration_is_this(
    base: Loaded, adapter: Path, tmp_path: Path
) -> None:
    out = tmp_path / "repo"
    assert export_triton(base, adapter, "medical", triton_export(GIVEN, []), out) == "llama"
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == [
        "README.md",
        "adapters/medical/1/adapter_config.json",
        "adapters/medical/1/adapter_model.safetensors",
        "adapters/medical/1/seektune.json",
        "models/llama/1/model.py",
        "models/llama/config.pbtxt",
        "serve.sh",
    ]
    for file in (out / "adapters" / "medical" / "1").iterdir():
        assert file.read_bytes() == (adapter / file.name).read_bytes()
    assert (
        (out / "models" / "llama" / "config.pbtxt").read_text()
        == """\
name: "llama"
backend: "python"
max_batch_size: 0  # the engine joins requests itself, token by token
model_transaction_policy { decoupled: true }
input [
  { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] optional: true },
  { name: "messages" data_type: TYPE_STRING dims: [ 1 ] optional: true },
  { name: "sampling_parameters" data_type: TYPE_STRING dims: [ 1 ] optional: true }
]
output [
  { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "token_ids" data_type: TYPE_INT32 dims: [ -1 ] },
  { name: "model" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "finish_reason" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "usage" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "control_output" data_type: TYPE_STRING dims: [ 1 ] }
]
# One process holds the base, all adapters and the engine.
instance_group [ { kind: KIND_CPU count: 1 } ]
parameters { key: "base_model" value { string_value: "tiny/llama" } }
parameters { key: "dtype" value { string_value: "float32" } }
parameters { key: "dequantize" value { string_value: "false" } }
parameters { key: "adapters" value { string_value: "medical" } }
parameters { key: "administer" value { string_value: "false" } }
parameters { key: "serving.adapter_root" value { string_value: "../../adapters" } }
parameters { key: "serving.adapter_poll" value { string_value: "2.0" } }
"""
    )


def test_settings_reach_the_model_and_a_gpu_is_one_instance_on_one_gpu(
    base: Loaded, adapter: Path, tmp_path: Path
) -> None:
    settings = ["kind=gpu", "name=mine", "administer=true", "engine.max_num_seqs=8", "serving.adapter_poll=0"]
    assert export_triton(base, adapter, "a", triton_export(GIVEN, settings), tmp_path / "out") == "mine"
    text = (tmp_path / "out" / "models" / "mine" / "config.pbtxt").read_text()
    assert "instance_group [ { kind: KIND_GPU count: 1 gpus: [ 0 ] } ]" in text
    config = triton_config(parameters(text))
    assert (config.base_model, config.administer, config.adapters) == ("tiny/llama", True, ("a",))
    assert (config.engine.max_num_seqs, config.serving.adapter_poll) == (8, 0)


def test_a_base_folder_is_named_by_its_whole_path_whatever_it_holds(
    base: Loaded, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / 'my "base" $x #1'
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    there = replace(base, source=folder.name)
    config = triton_export(GIVEN | {"base_model": folder.name}, [])
    model = export_triton(there, adapter, "a", config, tmp_path / "out")
    assert model == "my__base___x__1"
    text = (tmp_path / "out" / "models" / model / "config.pbtxt").read_text()
    assert triton_config(parameters(text)).base_model == str(folder)


def test_model_py_is_three_lines_that_name_the_class() -> None:
    assert len(triton.MODEL.splitlines()) == 3
    [statement] = [node for node in ast.parse(triton.MODEL).body if isinstance(node, ast.ImportFrom)]
    namespace: dict[str, object] = {}
    exec(triton.MODEL, namespace)
    assert statement.module == triton_model.__name__
    assert namespace["TritonPythonModel"] is triton_model.TritonPythonModel


def test_what_the_model_would_not_load_is_refused_and_nothing_is_written(
    base: Loaded, adapter: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(adapter, tmp_path / "damaged"))
    (damaged / "adapter_model.safetensors").write_bytes(b"{}")
    with pytest.raises(AdapterError, match="truncated"):
        export_triton(base, damaged, "a", triton_export(GIVEN, []), tmp_path / "out")
    config = triton_export(GIVEN, ["serving.max_lora_rank=2"])
    with pytest.raises(AdapterError, match="rank"):
        export_triton(base, adapter, "a", config, tmp_path / "out")
    with pytest.raises(ConfigError, match="exists already"):
        export_triton(base, adapter, "a", triton_export(GIVEN, []), tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_script_stands_beside_the_repository_and_can_be_run(
    base: Loaded, adapter: Path, tmp_path: Path
) -> None:
    export_triton(base, adapter, "a", triton_export(GIVEN, []), tmp_path / "out")
    assert os.access(tmp_path / "out" / "serve.sh", os.X_OK)
    subprocess.run(["bash", "-n", tmp_path / "out" / "serve.sh"], check=True)
