"""Callers by the thousand while adapters are swapped: none dropped, none answered by another, memory flat."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from serve_load import Load, Tally, process, swap_root

NAMES = ("x", "y", "z")


def load(count: int, root: Path, signed: Mapping[str, Path]) -> tuple[Tally, Mapping[str, float]]:
    """What callers saw, and the server's numbers when they were gone."""
    letters = swap_root(root, signed, NAMES)
    # Float64, so that the base's own answer does not hang on who shares its batch.
    arguments = ["--set", f"serving.adapter_root={root}", "--dtype", "float64"]
    with process("tiny/llama", arguments) as (server, url):
        tally = asyncio.run(Load(url, server.pid, NAMES, letters, "tiny/llama").run(count))
        families = list(text_string_to_metric_families(httpx.get(f"{url}/metrics").text))
    return tally, {s.name: s.value for family in families for s in family.samples if not s.labels}


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_call_is_dropped_or_answered_by_another(count: int, tmp_path: Path, signed: Mapping[str, Path]):
    tally, stands = load(count, tmp_path, signed)
    assert not tally.dropped, (len(tally.dropped), tally.dropped[:5])
    assert not tally.wrong, (len(tally.wrong), tally.wrong[:5])
    assert tally.requests == count
    assert tally.swaps > count / 100
    assert set(tally.kinds) == set(Load.KINDS)
    assert stands["seektune_running"] + stands["seektune_waiting"] <= len(Load.KINDS)  # callers just gone
    if count >= 10_000:
        start, end = statistics.mean(tally.memory[1:3]), statistics.mean(tally.memory[-2:])
        assert end <= 1.05 * start, tally.memory
