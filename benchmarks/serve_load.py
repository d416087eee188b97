"""Callers of a server, good and bad ones, and adapters that sign what they answer, so that mix-ups show."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

# A shell ignores Ctrl-C for what it runs in the background, and so would every process under it.
_SERVE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from seektune.cli import main
main()
"""
TOKENS = 8  # of an answer that is checked
LONG = 2000  # of an answer whose caller leaves


@contextmanager
def process(model: str, arguments: Sequence[str] = ()) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`seektune serve` in a process of its own, and its address."""
    command = [sys.executable, "-c", _SERVE, "serve", model, "--port", "0", *arguments]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as server:
        try:
            assert server.stdout is not None
            first = server.stdout.readline()
            found = re.search(r"http://\S+:\d+", first)
            assert found, first + server.stdout.read()
            yield server, found.group()
        finally:
            server.kill()


def signing_adapter(folder: Path, letter: str, base: str = "tiny/llama", length: int = 12) -> Path:
    """An adapter of `base` taught to answer anything with `letter` alone."""
    import torch

    from seektune.adapters.attach import attach
    from seektune.adapters.store import save_adapter
    from seektune.config.adapter import AdapterSpec
    from seektune.models.load import load_model

    loaded = attach(load_model(base), AdapterSpec(r=4, lora_alpha=16, target_modules=["attention", "dense"]))
    trained = [parameter for parameter in loaded.model.parameters() if parameter.requires_grad]
    [token] = loaded.tokenizer(letter, add_special_tokens=False)["input_ids"]
    rng = torch.Generator().manual_seed(ord(letter))
    optimizer = torch.optim.AdamW(trained, lr=2e-2)
    for _ in range(60):
        prompt = torch.randint(0, 264, (16, 24), generator=rng)
        rows = torch.cat([prompt, torch.full((16, length), token)], dim=1)
        logits = loaded.model(rows[:, :-1], use_cache=False).logits[:, -length:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, -length:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return save_adapter(loaded, folder / letter)


def swap_root(root: Path, signed: Mapping[str, Path], names: Sequence[str]) -> dict[str, str]:
    """Put every signed adapter under every name as a version; gives the letter of each content hash."""
    for name in names:
        for letter, folder in signed.items():
            shutil.copytree(folder, root / name / letter)
    return {
        json.loads((folder / "seektune.json").read_text())["content_hash"]: letter
        for letter, folder in signed.items()
    }


def resident_bytes(pid: int) -> int:
    """Memory of a process now (Linux)."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Tally:
    """What callers saw."""

    kinds: Counter[str] = field(default_factory=Counter)
    swaps: int = 0
    wrong: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)  # of the server, after each tenth of the calls

    @property
    def requests(self) -> int:
        """Calls made."""
        return sum(self.kinds.values())


class Load:
    """Closed-loop callers of one server: whole answers, streams, slow readers, and callers that leave."""

    KINDS = ("whole", "whole", "whole", "whole", "stream", "stream", "slow", "leaves", "cancels")

    def __init__(
        self, url: str, pid: int, names: Sequence[str], letters: Mapping[str, str], base: str
    ) -> None:
        self.tally = Tally()
        self._url, self._pid, self._names, self._letters, self._base = url, pid, names, letters, base
        self._base_answer = ""
        self._rng = random.Random(0)
        self._ends = asyncio.Event()

    async def run(self, count: int, callers: int = 16, swap_every: float = 0.05) -> Tally:
        """Make `count` calls while an adapter is swapped every `swap_every` seconds."""
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(base_url=self._url, timeout=120, limits=limits) as client:
            for name in self._names:
                await self._swap(client, name)
            answer = await client.post("/v1/completions", json=self._body(self._base))
            self._base_answer = answer.json()["choices"][0]["text"]
            swapping = asyncio.ensure_future(self._swaps(client, swap_every))
            numbers = iter(range(count))
            await asyncio.gather(*(self._calls(client, numbers, count) for _ in range(callers)))
            self._ends.set()
            await swapping
        return self.tally

    async def _calls(self, client: httpx.AsyncClient, numbers: Iterator[int], count: int) -> None:
        for number in numbers:
            kind = self._rng.choice(self.KINDS)
            model = self._rng.choice([*self._names, *self._names, self._base])
            try:
                await getattr(self, f"_{kind}")(client, model)
            except (httpx.HTTPError, AssertionError, KeyError, ValueError) as error:
                self.tally.dropped.append(f"{kind} {model}: {error!r}")
            self.tally.kinds[kind] += 1
            if (number + 1) % max(1, count // 10) == 0:
                self.tally.memory.append(resident_bytes(self._pid))

    async def _swaps(self, client: httpx.AsyncClient, every: float) -> None:
        while not self._ends.is_set():
            await self._swap(client, self._rng.choice(self._names))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ends.wait(), every)

    async def _swap(self, client: httpx.AsyncClient, name: str) -> None:
        version = self._rng.choice([*self._letters.values()])
        answer = await client.post("/v1/adapters", json={"name": name, "version": version})
        if answer.status_code != 200:
            self.tally.dropped.append(f"load of {name}/{version}: {answer.text[:300]}")
        self.tally.swaps += 1

    def _body(self, model: str, **more: Any) -> dict[str, Any]:
        prompt = "An answer, please."
        settings = {"max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        return {"model": model, "prompt": prompt} | settings | more

    def _check(self, model: str, answered: str, text: str) -> None:
        name, _, version = answered.partition("@")
        letter = next(
            (letter for key, letter in self._letters.items() if version and key.startswith(version)), ""
        )
        wanted = letter * TOKENS if version else self._base_answer
        if name != model or text != wanted:
            self.tally.wrong.append(f"{model} was answered by {answered}: {text!r} instead of {wanted!r}")

    async def _whole(self, client: httpx.AsyncClient, model: str) -> None:
        answer = await client.post("/v1/completions", json=self._body(model))
        assert answer.status_code == 200, answer.text[:300]
        self._check(model, answer.json()["model"], answer.json()["choices"][0]["text"])

    async def _stream(self, client: httpx.AsyncClient, model: str, pause: float = 0.0) -> None:
        text, answered, ended = "", "", False
        async with client.stream("POST", "/v1/completions", json=self._body(model, stream=True)) as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line.removeprefix("data: "))
                    text, answered = text + chunk["choices"][0]["text"], chunk["model"]
                ended = ended or line == "data: [DONE]"
                await asyncio.sleep(pause)
        assert ended, f"a stream ended after {text!r}"
        self._check(model, answered, text)

    async def _slow(self, client: httpx.AsyncClient, model: str) -> None:
        await self._stream(client, model, pause=0.05)

    async def _leaves(self, client: httpx.AsyncClient, model: str) -> None:
        body = self._body(model, stream=True, max_tokens=LONG)
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            assert answer.status_code == 200, answer.status_code
            async for _ in answer.aiter_bytes():
                return

    async def _cancels(self, client: httpx.AsyncClient, model: str) -> None:
        with suppress(httpx.TimeoutException):
            await client.post("/v1/completions", json=self._body(model, max_tokens=LONG), timeout=0.05)
