"""What is counted, as a scraper reads it."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families
from servers import ADMINISTER, USE, Running

from seektune.generation.request import Output
from seektune.serving.metrics import Metrics
from seektune.serving.outbox import Outbox


def samples(text: str) -> dict[tuple[str, str], float]:
    return {
        (sample.name, sample.labels.get("model", sample.labels.get("status", ""))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "le" not in sample.labels
    }


async def _outbox(model: str) -> Outbox:
    return Outbox("r", model, 100)


def test_a_prompt_counts_once_and_an_answer_by_its_tokens():
    metrics, outbox = Metrics(), asyncio.run(_outbox("m"))
    piece = Output(id="r", tokens=(1, 2), prompt_tokens=5, cached_tokens=3)
    metrics.generated(outbox, piece)
    metrics.generated(outbox, piece)
    metrics.answered(outbox, Output(id="r", finish_reason="stop"))
    found = samples(metrics.text().decode())
    assert found["seektune_prompt_tokens_total", "m"] == 5
    assert found["seektune_cached_tokens_total", "m"] == 3
    assert found["seektune_generated_tokens_total", "m"] == 4
    assert found["seektune_time_to_first_token_seconds_count", "m"] == 1
    assert found["seektune_requests_total", "m"] == 1


def test_two_servers_in_a_process_count_apart():
    first, second = Metrics(), Metrics()
    first.refused(400)
    assert ("seektune_refused_total", "400") in samples(first.text().decode())
    assert ("seektune_refused_total", "400") not in samples(second.text().decode())


def test_a_server_counts_each_adapter_and_says_where_it_stands(server: Running):
    before = samples(server.call("GET", "/metrics", ADMINISTER).text)
    for model, count in (("A", 2), ("B", 1)):
        for _ in range(count):
            body = {"model": model, "prompt": "x", "max_tokens": 3, "temperature": 0}
            assert server.call("POST", "/v1/completions", USE, json=body).status_code == 200
    after = samples(server.call("GET", "/metrics", ADMINISTER).text)
    for model, tokens in (("A", 6), ("B", 3)):
        key = "seektune_generated_tokens_total", model
        assert after[key] - before.get(key, 0) == tokens
    assert after["seektune_running", ""] == 0
    assert after["seektune_num_pages", ""] > 0
    assert after["seektune_step_seconds_count", ""] > before["seektune_step_seconds_count", ""]
