"""A file of answers that goes on where it was cut."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from seektune.data.records import Bad
from seektune.errors import ConfigError
from seektune.recipes.answer_file import AnswerFile
from seektune.recipes.questions import hashed

ONE, TWO, MADE = hashed("one"), hashed("two"), hashed("settings")


@contextmanager
def opened(path: Path) -> Iterator[AnswerFile]:
    with closing(AnswerFile(path)) as answers:
        yield answers


def two_answers(folder: Path) -> Path:
    path = folder / "new" / "answers.jsonl"
    with opened(path) as answers:
        answers.begin(MADE)
        answers.append(7, TWO, {"text": "b\n好"})
        answers.append(2, ONE, {"text": "a"})
    return path


def test_an_answer_is_a_line_that_names_its_question_and_settings(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in two_answers(tmp_path).read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {"line": 7, "text": "b\n好", "question": TWO, "settings": MADE}
    with opened(tmp_path / "new" / "answers.jsonl") as answers:
        assert answers.answered == 2
        assert [answers.holds(line, ONE) for line in (1, 2, 3, 100)] == [False, True, False, False]
        answers.check_end(7)
        answers.begin(MADE)


def test_another_question_in_an_answered_line_is_an_error(tmp_path: Path) -> None:
    with opened(two_answers(tmp_path)) as answers:
        with pytest.raises(ConfigError, match="line 2 is not the question"):
            answers.holds(2, TWO)
        with pytest.raises(ConfigError, match="line 7 is not the question"):
            answers.holds(7, ONE)
        with pytest.raises(ConfigError, match="answers line 7 of 6: rows are gone"):
            answers.check_end(6)


def test_other_settings_are_an_error(tmp_path: Path) -> None:
    with opened(two_answers(tmp_path)) as answers, pytest.raises(ConfigError, match="was begun with another"):
        answers.begin(hashed("others"))


@pytest.mark.parametrize("cut", [1, 20, 60, -1])
@pytest.mark.parametrize("lost", [b"", b"\0\0\0"])
def test_a_last_line_that_was_cut_short_is_taken_away(tmp_path: Path, cut: int, lost: bytes) -> None:
    path = two_answers(tmp_path)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + second[:cut] + (lost if cut == 1 else b""))
    with opened(path) as answers:
        assert answers.answered == 1
        assert not answers.holds(2, ONE)
        answers.begin(MADE)
        answers.append(2, ONE, {"text": "a"})
    assert path.read_bytes() == first + second


@pytest.mark.parametrize("content", [b"my notes", b"my notes\n", b'{"line": 3}\n', b"[]\n", b'{"text": "x"}'])
def test_a_file_of_anything_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="is no answer of this command"):
        AnswerFile(path)
    assert path.read_bytes() == content


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    path = two_answers(tmp_path)
    with opened(path), pytest.raises(ConfigError, match="another process is writing"):
        AnswerFile(path)
    with opened(path):
        pass


def test_bad_rows_lie_beside_the_answers_and_are_those_of_the_last_run(tmp_path: Path) -> None:
    path = two_answers(tmp_path)
    with opened(path) as answers:
        answers.begin(MADE)
        answers.append_bad(Bad("q.jsonl", 3, "no", "raw"))
        assert answers.bad == 1
    beside = tmp_path / "new" / "answers.errors.jsonl"
    assert json.loads(beside.read_text()) == {"file": "q.jsonl", "line": 3, "reason": "no", "raw": "raw"}
    before = path.read_bytes()
    with opened(path) as answers:
        with pytest.raises(ConfigError, match="was begun with another"):
            answers.begin(hashed("others"))
        assert beside.exists()  # a refusal changes nothing
        answers.begin(MADE)
        assert not beside.exists()
    assert path.read_bytes() == before


def test_a_file_that_was_made_for_nothing_is_gone_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with opened(path):
        assert path.exists()
    assert not path.exists()
    with opened(path) as answers:
        answers.begin(MADE)
    assert path.read_bytes() == b""


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        AnswerFile(tmp_path)
