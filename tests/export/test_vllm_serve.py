"""The script as bash runs it, with a vLLM that prints its arguments, and the page beside it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from seektune.export.vllm_serve import Service, readme, script

SERVICE = Service(
    served="it's@0123",
    base="/models/a $base",
    base_name="models/a $base",
    max_lora_rank=32,
    latent_attention=False,
    experts=False,
)
MLA = replace(SERVICE, latent_attention=True)
ROTARY = ["--compilation-config", '{"custom_ops":["all","-rotary_embedding"]}']


def start(
    service: Service, folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the script in `folder` from another one."""
    folder.mkdir()
    (folder / "vllm").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (folder / "vllm").chmod(0o755)
    (folder / "serve.sh").write_text(script(service))
    path = f"{folder}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", str(folder / "serve.sh"), *arguments],
        env={"PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )


def test_the_script_gives_vllm_these_flags_whatever_the_names_hold(tmp_path: Path) -> None:
    folder = tmp_path / "my export"
    done = start(SERVICE, folder, "--dtype", "float32")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        *("serve", "/models/a $base", "--served-model-name", "models/a $base"),
        *("--host", "127.0.0.1", "--port", "8000"),
        *("--enable-lora", "--max-lora-rank", "32", "--max-loras", "1"),
        *("--lora-modules", f"it's@0123={folder}/adapters/it's@0123"),
        *("--dtype", "float32"),
    ]


def test_base_and_port_can_be_others(tmp_path: Path) -> None:
    done = start(SERVICE, tmp_path / "out", BASE="/else where", PORT="9000").stdout.splitlines()
    assert done[1] == "/else where"
    assert done[done.index("--port") + 1] == "9000"


@pytest.mark.parametrize(("service", "expected"), [(SERVICE, []), (MLA, ROTARY)], ids=["llama", "mla"])
def test_on_cpu_the_rotary_op_that_is_wrong_for_latent_attention_is_off(
    service: Service, expected: list[str], tmp_path: Path
) -> None:
    done = start(service, tmp_path / "out", DEVICE="cpu")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[lines.index("--lora-modules") + 2 :] == expected
    assert "-rotary_embedding" not in start(service, tmp_path / "gpu").stdout


def test_on_cpu_a_base_with_experts_is_refused_before_vllm_crashes(tmp_path: Path) -> None:
    moe = replace(MLA, experts=True)
    done = start(moe, tmp_path / "out", DEVICE="cpu")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: vLLM on CPU crashes with LoRA where the base has routed experts")
    assert start(moe, tmp_path / "gpu").returncode == 0
    assert "needs a GPU" in readme(moe)


def test_the_page_calls_the_adapter_by_its_versioned_name() -> None:
    page = readme(SERVICE)
    call = page[page.index("    curl") :].split("\n\n")[0].replace("\\\n", " ")
    words = shlex.split(call)
    assert words[1] == "http://127.0.0.1:8000/v1/chat/completions"
    assert json.loads(words[-1])["model"] == "it's@0123"
    assert "DEVICE=cpu ./serve.sh" in page
