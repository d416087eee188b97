"""vLLM's own server, started by the script of an export: the same tokens as ours, adapter by adapter.

`make vllm-env` builds what these tests start. The bases are tiny, of shapes that vLLM's CPU build accepts.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from documents import ROOT
from rich.console import Console
from tiny_runs import tiny_config, write_rows
from transformers import AutoModelForCausalLM

from seektune.adapters.store import load_adapter
from seektune.errors import AdapterError
from seektune.generation.generate import encode_prompt, generate
from seektune.models.load import load_model
from seektune.models.tiny import tiny_config as model_config
from seektune.models.tiny import tiny_tokenizer
from seektune.recipes import export, train
from seektune.types import Message

VLLM = ROOT / ".venv-vllm" / "bin"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (VLLM / "vllm").exists(), reason="no .venv-vllm: `make vllm-env` builds it"),
]

LATENT = {
    "q_lora_rank": 24,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "head_dim": 64,
}
DENSE = LATENT | {
    "first_k_dense_replace": 2
}  # as many as there are layers: vLLM's CPU build has no expert LoRA
V3 = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}  # as in the real config.json; vLLM reads them
BASES: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 128, "head_dim": 32},
    "deepseek_v2": DENSE,
    "deepseek_v3": DENSE | V3,
}
EXCEPT_KV_B = {"target_modules": ["attention", "dense"], "exclude_modules": ["kv_b_proj"]}
PROMPTS = [
    [Message("user", "Case 1: the heart hurts")],
    [Message("user", "Case 2: the skin hurts")],
    "Once upon a time, there was a little",
]
CPU = {
    "DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
SMALL = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "256", "--max-num-seqs", "4"]
ROTARY_OFF = ["--compilation-config", '{"custom_ops":["all","-rotary_embedding"]}']

Tokens = list[list[int]]


@dataclass(frozen=True)
class Server:
    """A vLLM that answers."""

    url: str

    def call(self, path: str, **body: Any) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=300)

    def tokens(self, model: str, prompts: Sequence[Sequence[int]]) -> Tokens:
        """Greedy answers, to the end of sequence or 16 tokens."""
        found = []
        for prompt in prompts:
            settings = {"max_tokens": 16, "temperature": 0, "return_token_ids": True}
            answer = self.call("/v1/completions", model=model, prompt=list(prompt), **settings)
            assert answer.status_code == 200, answer.text
            found.append(answer.json()["choices"][0]["token_ids"])
        return found


@contextmanager
def serving(command: Sequence[str], log: Path, **environment: str) -> Iterator[Server]:
    """The server that `command` becomes, once it is healthy; ended with all its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = os.environ | CPU | {"PATH": f"{VLLM}:{os.environ['PATH']}", "PORT": port} | environment
    variables.pop("PYTHONPATH", None)
    with log.open("w") as output:
        process = subprocess.Popen(
            [word.replace("PORT", port) for word in command],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}")
    try:
        wait_for(server, process, log)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            with_children_gone(process)


def wait_for(server: Server, process: subprocess.Popen[bytes], log: Path, seconds: float = 400) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            if httpx.get(server.url + "/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"not ready after {seconds} s: {log.read_text()[-4000:]}")


def with_children_gone(process: subprocess.Popen[bytes]) -> None:
    """vLLM's engine is a process of its own in the group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait(60)


def make_base(name: str, folder: Path, **changes: Any) -> Path:
    """A random checkpoint of `tiny/name` with `changes` in its configuration."""
    config = model_config(name)
    for key, value in changes.items():
        setattr(config, key, value)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    tiny_tokenizer(name)[0].save_pretrained(folder)
    return folder


def trained(base: Path, name: str, rate: float, **lora: Any) -> Path:
    """A run of 30 steps on this base beside it."""
    training = {"max_steps": 30, "learning_rate": rate, "save_steps": 30, "logging_steps": 30}
    config = tiny_config(
        base.parent, name, base_model=str(base), lora={"r": 4} | lora, training=training, data=rows(base)
    )
    return train.run(config, console=quiet())


def rows(base: Path) -> dict[str, Any]:
    path = base.parent / "rows.jsonl"
    return {"train": [str(path if path.exists() else write_rows(path))]}


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


def ours(base: Path, run: Path | None = None) -> Tokens:
    """Our greedy tokens for PROMPTS, of the base or of the run's adapter."""
    loaded = load_model(base)
    if run is not None:
        load_adapter(loaded, run / "adapter")
    return [list(answer.tokens) for answer in generate(loaded, list(PROMPTS), max_new_tokens=16)]


def prompts(base: Path) -> list[list[int]]:
    loaded = load_model(base)
    return [encode_prompt(loaded, prompt) for prompt in PROMPTS]


@dataclass(frozen=True)
class Case:
    """A base, two runs on it, the export of the first as vLLM serves it."""

    family: str
    base: Path
    first: Path
    second: Path
    out: Path
    served: str
    server: Server


@pytest.fixture(scope="module", params=BASES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    folder = tmp_path_factory.mktemp(request.param)
    base = make_base(request.param, folder / "base", **BASES[request.param])
    lora = {"target_modules": ["attention", "dense"]} if request.param == "llama" else EXCEPT_KV_B
    first = trained(base, "first", 1e-2, **lora)
    second = trained(base, "second", 3e-3, **lora)
    out = folder / "out"
    export.run(first, to="vllm", out=out, console=quiet())
    (adapter,) = (out / "adapters").iterdir()
    resolver = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_PLUGINS": "lora_filesystem_resolver",
        "VLLM_LORA_RESOLVER_CACHE_DIR": str(out / "adapters"),
    }
    with serving([str(out / "serve.sh"), *SMALL], folder / "vllm.log", **resolver) as server:
        yield Case(request.param, base, first, second, out, adapter.name, server)


def test_base_and_adapter_give_the_tokens_that_ours_give(case: Case) -> None:
    listed = [entry["id"] for entry in httpx.get(f"{case.server.url}/v1/models").json()["data"]]
    assert listed == [str(case.base), case.served]
    base, adapted = ours(case.base), ours(case.base, case.first)
    assert all(one != other for one, other in zip(base, adapted, strict=True))
    assert case.server.tokens(str(case.base), prompts(case.base)) == base
    assert case.server.tokens(case.served, prompts(case.base)) == adapted


def test_the_adapter_gives_the_tokens_of_the_merged_model(case: Case, tmp_path: Path) -> None:
    export.run(case.first, to="merged", out=tmp_path / "merged", console=quiet())
    assert case.server.tokens(case.served, prompts(case.base)) == ours(tmp_path / "merged")


def test_a_version_put_into_the_resolver_s_folder_is_served_by_its_name(case: Case, tmp_path: Path) -> None:
    export.run(case.second, to="vllm", out=tmp_path / "out", console=quiet())
    (adapter,) = (tmp_path / "out" / "adapters").iterdir()
    absent = case.server.call("/v1/completions", model=adapter.name, prompt="x")
    assert absent.status_code == 404
    shutil.copytree(adapter, case.out / "adapters" / adapter.name)
    second = ours(case.base, case.second)
    assert second != ours(case.base, case.first)
    assert case.server.tokens(adapter.name, prompts(case.base)) == second
    assert case.server.tokens(case.served, prompts(case.base)) == ours(case.base, case.first)


def test_an_adapter_is_loaded_and_unloaded_over_the_api(case: Case, tmp_path: Path) -> None:
    export.run(case.second, to="vllm", out=tmp_path / "out", console=quiet())
    (adapter,) = (tmp_path / "out" / "adapters").iterdir()
    loaded = case.server.call("/v1/load_lora_adapter", lora_name="other", lora_path=str(adapter))
    assert loaded.status_code == 200, loaded.text
    assert case.server.tokens("other", prompts(case.base)) == ours(case.base, case.second)
    assert case.server.call("/v1/unload_lora_adapter", lora_name="other").status_code == 200
    assert case.server.call("/v1/completions", model="other", prompt="x").status_code == 404


def test_the_call_on_the_page_of_the_export_is_answered_by_the_adapter(case: Case) -> None:
    page = (case.out / "README.md").read_text()
    call = page[page.index("    curl") :].split("\n\n")[0].replace("http://127.0.0.1:8000", case.server.url)
    done = subprocess.run(["bash", "-c", call], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["model"] == case.served
    assert answer["choices"][0]["message"]["content"]


def test_a_lora_on_kv_b_proj_is_refused_because_vllm_still_drops_it(case: Case, tmp_path: Path) -> None:
    if case.family == "llama":
        pytest.skip("llama has no kv_b_proj")
    run = trained(case.base, tmp_path.name, 1e-2, target_modules=["kv_b_proj"])
    with pytest.raises(AdapterError, match=r"drops a LoRA on it without a word.*--to merged"):
        export.run(run, to="vllm", out=tmp_path / "out", console=quiet())
    assert ours(case.base, run) != ours(case.base)
    answer = case.server.call("/v1/load_lora_adapter", lora_name="kv_b", lora_path=str(run / "adapter"))
    assert answer.status_code == 200, answer.text  # "Success: …"
    assert case.server.tokens("kv_b", prompts(case.base)) == ours(case.base)


def test_what_vllm_has_no_lora_for_it_serves_merged_experts_and_kv_b_proj_among_it(tmp_path: Path) -> None:
    base = make_base("deepseek_v3", tmp_path / "base", **LATENT, **V3)
    run = trained(base, "run", 1e-2, target_modules=["attention", "dense", "shared", "routed"])
    export.run(run, to="merged", out=tmp_path / "merged", console=quiet())
    adapted = ours(base, run)
    assert all(one != other for one, other in zip(ours(base), adapted, strict=True))
    command = ["vllm", "serve", str(tmp_path / "merged"), "--served-model-name", "merged"]
    where = ["--host", "127.0.0.1", "--port", "PORT"]
    with serving([*command, *where, *SMALL, *ROTARY_OFF], tmp_path / "vllm.log") as server:
        assert server.tokens("merged", prompts(base)) == adapted


@pytest.mark.gpu
def test_on_a_gpu_routed_experts_are_served_unmerged(tmp_path: Path) -> None:
    """Not run yet: it needs a GPU and `pip install vllm` in .venv-vllm instead of the CPU's build."""
    base = make_base("deepseek_v3", tmp_path / "base", **LATENT, **V3)
    run = trained(base, "run", 1e-2, target_modules=["routed"], experts={1: [0, 3, 5]})
    export.run(run, to="vllm", out=tmp_path / "out", console=quiet())
    (adapter,) = (tmp_path / "out" / "adapters").iterdir()
    adapted = ours(base, run)
    assert all(one != other for one, other in zip(ours(base), adapted, strict=True))
    command = [str(tmp_path / "out" / "serve.sh"), *SMALL]
    with serving(command, tmp_path / "vllm.log", DEVICE="gpu") as server:
        assert server.tokens(str(base), prompts(base)) == ours(base)
        assert server.tokens(adapter.name, prompts(base)) == adapted
