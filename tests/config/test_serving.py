"""The serving section: limits, origins, overrides."""

from __future__ import annotations

import pytest

from seektune.config.serving import ServingConfig, serve_config
from seektune.errors import ConfigError


def test_settings_and_overrides_meet_in_one_configuration():
    config = serve_config({"port": 9}, ["engine.max_num_seqs=3", "serving.request_timeout=1.5"])
    assert (config.serving.port, config.serving.request_timeout, config.engine.max_num_seqs) == (9, 1.5, 3)
    assert config.serving.host == ServingConfig().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("serving.prot=1", "unknown key; did you mean port"),
        ("engine.max_num_seqs=0", "greater than 0"),
        ("serving.port=70000", "65535"),
        ("nothing", "is not key=value"),
        ("serving.request_timeout=.inf", "finite"),
        ("serving.adapter_poll=1", "looks for adapters in serving.adapter_root: set it too"),
    ],
)
def test_a_wrong_setting_is_named(override: str, reason: str):
    with pytest.raises(ConfigError, match=reason):
        serve_config({}, [override])


@pytest.mark.parametrize(
    "origin", ["*", "null", "example.org", "https://example.org/", "https://*.org", "file://x"]
)
def test_an_origin_is_one_place(origin: str):
    with pytest.raises(ConfigError, match="is no origin"):
        serve_config({"cors_origins": [origin]})


@pytest.mark.parametrize("origin", ["https://example.org", "http://localhost:3000", "http://[::1]:80"])
def test_an_origin_is_a_scheme_a_host_and_perhaps_a_port(origin: str):
    assert serve_config({"cors_origins": [origin]}).serving.cors_origins == (origin,)
