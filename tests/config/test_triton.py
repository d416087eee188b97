"""Parameters of a config.pbtxt, both ways; what is unknown or another server's is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from seektune.config.serving import ServingConfig
from seektune.config.triton import TritonConfig, parameters_of, triton_config, triton_export
from seektune.errors import ConfigError

GIVEN = {"base_model": "tiny/llama", "dtype": "auto", "dequantize": False}


def test_settings_come_back_from_the_parameters_that_they_are_written_as() -> None:
    settings = ["administer=true", "adapters=a, b", "engine.max_num_seqs=8", "serving.adapter_poll=0.5",
                "serving.adapter_root=/a #b: c", "kind=gpu", "name=x"]  # fmt: skip
    config = triton_export(GIVEN, settings)
    parameters = parameters_of(config)
    assert parameters == {
        "base_model": "tiny/llama",
        "dtype": "auto",
        "dequantize": "false",
        "adapters": "a, b",
        "administer": "true",
        "serving.adapter_root": "/a #b: c",
        "serving.adapter_poll": "0.5",
        "engine.max_num_seqs": "8",
    }
    again = triton_config(parameters)
    assert again == TritonConfig(**config.model_dump(exclude={"name", "kind"}, exclude_unset=True))
    assert again.serving == ServingConfig(adapter_root=Path("/a #b: c"), adapter_poll=0.5)
    assert (again.adapters, again.administer, again.engine.max_num_seqs) == (("a", "b"), True, 8)


def test_a_root_to_watch_is_the_exporters_to_give() -> None:
    assert triton_export(GIVEN, ["serving.adapter_poll=0.5"]).serving.adapter_poll == 0.5


def test_parameters_of_triton_s_own_are_passed_over() -> None:
    parameters = {"base_model": "x", "EXECUTION_ENV_PATH": "/env", "FORCE_CPU_ONLY_INPUT_TENSORS": "no"}
    assert triton_config(parameters) == TritonConfig(base_model="x")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "base_model: Field required"),
        ({"base_model": "x", "adaptors": "a"}, "adaptors: unknown key; did you mean adapters"),
        ({"base_model": "x", "engine.max_seqs": "8"}, "engine.max_seqs: unknown key"),
        ({"base_model": "x", "serving.max_loras": "none"}, "serving.max_loras: "),
        ({"base_model": "x", "serving.port": "9000"}, "serving.port is the HTTP server's"),
        ({"base_model": "x", "serving.header_timeout": "9"}, "serving.header_timeout is the HTTP server's"),
        ({"base_model": "x", "kind": "gpu"}, "kind: unknown key"),
    ],
)
def test_what_is_wrong_in_the_parameters_is_named(parameters: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^parameters of config.pbtxt: {message}"):
        triton_config(parameters)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("kind", "--set 'kind' is not key=value"),
        ("kind=tpu", "--set: kind: "),
        ("name=a/b", "--set: name: "),
        ("serving.host=0.0.0.0", "--set: serving.host is the HTTP server's"),
    ],
)
def test_what_is_wrong_in_the_settings_is_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        triton_export(GIVEN, [setting])
