"""Questions through one engine, mixed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from seektune.data.records import Bad, Record
from seektune.generation.generate import generate
from seektune.generation.request import Sampling
from seektune.recipes.adapted import open_adapted, open_resident
from seektune.recipes.answering import Answer, answered
from seektune.recipes.questions import Question
from seektune.types import Message

BASE = "tiny/deepseek_v3"


def question(line: int, model: str = "", max_tokens: int = 6) -> Question:
    turns = (Message("user", f"the eye hurts {line}"),)
    return Question(Record("q.jsonl", line, {}), f"q{line}", model, turns, Sampling(max_tokens=max_tokens))


def test_base_and_adapters_answer_in_one_batch_as_they_do_alone(far: Path, finished: Path) -> None:
    names = ["far", "run", BASE, ""]
    rows = [question(line, names[line % 4]) for line in range(1, 13)]
    found = {row.question.line: row for row in answered(open_resident(BASE, [finished, far]), iter(rows))
             if isinstance(row, Answer)}  # fmt: skip
    loaded = open_adapted(BASE, [finished, far])
    assert len(found) == 12
    for line, answer in found.items():
        adapter = {BASE: None, "": "far"}.get(names[line % 4], names[line % 4])
        alone = generate(loaded, list(rows[line - 1].messages), max_new_tokens=6, adapter=adapter)
        assert (answer.text, answer.last.finish_reason) == (alone.text, alone.finish_reason)
        assert answer.model.partition("@")[0] == (adapter or BASE)


def test_an_answer_says_who_gave_it_why_it_ended_and_what_it_took(far: Path) -> None:
    [answer] = answered(open_resident(BASE, [far]), iter([question(3)]))
    assert isinstance(answer, Answer)
    said = answer.to_json()
    assert said["id"] == "q3"
    assert said["model"].startswith("far@")
    assert said["finish_reason"] in ("stop", "length")
    assert said["usage"]["completion_tokens"] <= 6


def test_what_cannot_be_answered_is_a_bad_row_among_the_answers(far: Path) -> None:
    long = Question(
        Record("q.jsonl", 2, {"prompt": "…"}), None, "", (Message("user", "x" * 9999),), Sampling()
    )
    rows: list[Question | Bad] = [question(1), long, question(3, "nobody"), Bad("q.jsonl", 4, "no", "")]
    found = list(answered(open_resident(BASE, [far]), iter(rows)))
    bad = {row.line: row.reason for row in found if isinstance(row, Bad)}
    assert "the model's context is" in bad[2]
    assert bad[3] == f"model 'nobody' is not here; here are far, {BASE}"
    assert bad[4] == "no"
    assert len(found) == 4


def test_a_model_that_overflows_gives_a_bad_row() -> None:
    resident = open_resident("tiny/llama")
    with torch.no_grad():
        resident.loaded.model.get_output_embeddings().weight.fill_(torch.inf)
    [row] = answered(resident, iter([question(1)]))
    assert isinstance(row, Bad)
    assert "not finite" in row.reason


def test_rows_are_taken_up_as_they_are_needed() -> None:
    taken = 0

    def rows() -> Iterator[Question]:
        nonlocal taken
        for line in range(1, 1001):
            taken = line
            yield question(line, max_tokens=1 + line % 3)

    answers = answered(open_resident("tiny/llama"), rows())
    for number in range(1, 301):
        next(answers)
        assert taken <= number + 128 + 64  # at most twice a batch, and the answers of one step
    assert taken >= 300
