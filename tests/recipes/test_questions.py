"""Rows that ask, and rows that are bad."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from seektune.data.records import Bad
from seektune.errors import DataError
from seektune.generation.request import Sampling
from seektune.recipes.questions import Asking, Question, hashed, read_questions
from seektune.types import Message

ASKING = Asking(Sampling(max_tokens=20, seed=5), [Message("system", "Be brief.")], "Case: ")


def read(folder: Path, *rows: Any) -> list[Question | Bad]:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return list(read_questions(path, ASKING))


def good(folder: Path, row: dict[str, Any]) -> Question:
    [question] = read(folder, row)
    assert isinstance(question, Question), question
    return question


def test_a_prompt_is_asked_as_on_the_command_line(tmp_path: Path) -> None:
    question = good(tmp_path, {"prompt": "眼睛痛", "id": "a"})
    assert question.messages == (Message("system", "Be brief."), Message("user", "Case: 眼睛痛"))
    assert question.sampling == Sampling(max_tokens=20, seed=6)
    assert (question.id, question.line, question.model) == ("a", 1, "")


def test_messages_are_a_conversation_as_it_is(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    question = good(tmp_path, {"messages": [*turns, {"role": "user", "content": "eye"}]})
    assert [turn.content for turn in question.messages] == ["Hi", "Yes?", "eye"]


def test_a_row_may_say_who_answers_and_how(tmp_path: Path) -> None:
    row = {"prompt": "x", "model": "medical", "max_tokens": 3, "temperature": 0.5, "seed": 1, "stop": "\n"}
    question = good(tmp_path, row | {"top_p": None, "id": 7})
    assert question.model == "medical"
    assert question.sampling == Sampling(max_tokens=3, temperature=0.5, seed=1, stop=("\n",))


def test_every_row_has_a_seed_of_its_own(tmp_path: Path) -> None:
    seeds = [row.sampling.seed for row in read(tmp_path, *[{"prompt": "x"}] * 3) if isinstance(row, Question)]
    assert seeds == [6, 7, 8]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "a row has a prompt or messages"),
        ({"prompt": "x", "messages": []}, "and not both"),
        ({"prompt": ["x"]}, "prompt must be a string"),
        ({"prompt": "x", "id": 1.5}, "id must be"),
        ({"prompt": "x", "id": True}, "id must be"),
        ({"prompt": "x", "max_token": 3}, "did you mean max_tokens"),
        ({"prompt": "x", "temperature": -1}, "temperature is -1"),
        ({"prompt": "x", "max_tokens": "3"}, "max_tokens: Input should be a valid integer"),
        ({"prompt": "x", "n": 2}, "n is not supported"),
        ({"prompt": "x", "stream": True}, "stream is not supported"),
        ({"messages": [{"role": "nurse", "content": "x"}]}, "messages.0.role"),
        ({"messages": []}, "messages"),
        ([1], "a record is one JSON object"),
    ],
)
def test_a_bad_row_says_why_and_the_others_are_read(tmp_path: Path, row: Any, reason: str) -> None:
    first, bad, last = read(tmp_path, {"prompt": "x"}, row, {"prompt": "y"})
    assert isinstance(first, Question)
    assert isinstance(last, Question)
    assert isinstance(bad, Bad)
    assert reason in bad.reason
    assert bad.line == 2


def test_only_json_lines_are_questions(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt\nx\n")
    with pytest.raises(DataError, match="is csv: questions are JSON lines"):
        list(read_questions(path, ASKING))
    with pytest.raises(DataError, match="cannot read"):
        list(read_questions(tmp_path / "none.jsonl", ASKING))
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(b'{"prompt": "x"}\n'))
    assert len(list(read_questions(packed, ASKING))) == 1


def test_rows_are_read_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "x"}\n' * 50_000)
    rows = read_questions(path, ASKING)
    next(rows)
    path.write_text("")  # what is not read yet is gone
    assert len(list(rows)) < 25_000


def test_a_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert hashed({"a": 1, "b": "好"}) == hashed({"b": "好", "a": 1}) != hashed({"a": 1, "b": ""})
