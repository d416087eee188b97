"""What the command says before it serves."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from seektune.config.serving import serve_config
from seektune.errors import ConfigError
from seektune.recipes.serve import named, page, run


def test_an_adapter_is_named_with_its_folder_or_its_run(tmp_path: Path):
    assert named("medical=somewhere") == ("medical", Path("somewhere"))
    (tmp_path / "run.yaml").write_text("", encoding="utf-8")
    assert named(f"medical={tmp_path}") == ("medical", tmp_path / "adapter")
    for wrong in ("medical", "=x", "medical="):
        with pytest.raises(ConfigError, match="is not name=folder"):
            named(wrong)


def test_the_page_names_what_is_served_and_a_line_that_calls_it():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        text = page(listening, ["tiny/llama", "medical"], has_keys=True)
    assert f"serving tiny/llama, medical at http://127.0.0.1:{port}/v1" in text
    assert f"open http://127.0.0.1:{port}/ in a browser" in text
    assert f"curl http://127.0.0.1:{port}/v1/chat/completions" in text
    assert "Authorization: Bearer KEY" in text
    assert '"model": "medical"' in text


def test_an_open_address_without_keys_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.delenv("SEEKTUNE_API_KEYS", raising=False)
    with pytest.raises(ConfigError, match="there are no API keys"):
        run("no/such/model", config=serve_config({"host": "0.0.0.0"}))


def test_a_run_and_an_adapter_of_one_name_are_refused(finished: Path):
    given = [f"run={finished}"]
    with pytest.raises(ConfigError, match="two adapters have one name: run"):
        run(str(finished), config=serve_config({"port": 0}), adapters=given)
