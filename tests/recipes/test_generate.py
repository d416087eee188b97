"""`seektune generate`: a question, and files of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from seektune import cli
from seektune.errors import ConfigError
from seektune.recipes import generate

BASE = "tiny/deepseek_v3"


def said(capsys: pytest.CaptureFixture[str], model: str | Path, prompt: str, **options: Any) -> str:
    capsys.readouterr()
    assert generate.run(str(model), prompt, max_new_tokens=8, **options) == 0
    return capsys.readouterr().out


def test_a_run_s_prompt_prefix_opens_the_question(
    far: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prefixed = shutil.copytree(finished, tmp_path / "prefixed")
    config = prefixed / "run.yaml"
    config.write_text(config.read_text().replace("prompt_prefix: ''", "prompt_prefix: 'Case: '"))
    asked = {"adapters": [far]}
    assert said(capsys, prefixed, "eye", **asked) == said(capsys, finished, "Case: eye", **asked)
    assert said(capsys, prefixed, "eye", **asked) != said(capsys, finished, "eye", **asked)


def test_an_adapter_changes_the_answer(far: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, BASE, "The eye hurts") != said(capsys, BASE, "The eye hurts", adapters=[far])


def rows_in(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_questions(path: Path, count: int) -> Path:
    rows = [{"prompt": f"the eye hurts {index}", "id": f"q{index}"} for index in range(count)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_a_file_of_questions_becomes_a_file_of_answers(
    far: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions, out = write_questions(tmp_path / "q.jsonl", 5), tmp_path / "a.jsonl"
    asked = {"adapters": [far], "max_new_tokens": 8}
    assert generate.run(BASE, str(questions), out=out, **asked) == 0
    assert "5 rows answered" in capsys.readouterr().err
    found = sorted(rows_in(out), key=lambda row: row["line"])
    assert [(row["line"], row["id"]) for row in found] == [(n + 1, f"q{n}") for n in range(5)]
    assert found[1]["text"] + "\n" == said(capsys, BASE, "the eye hurts 1", adapters=[far])
    before = out.read_bytes()
    assert generate.run(BASE, str(questions), out=out, **asked) == 0
    assert "5 rows have their answer, 0 are left" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_more_questions_are_answered_and_changed_ones_or_other_settings_are_an_error(
    tmp_path: Path,
) -> None:
    questions, out = write_questions(tmp_path / "q.jsonl", 2), tmp_path / "a.jsonl"
    generate.run("tiny/llama", str(questions), out=out, max_new_tokens=2)
    write_questions(questions, 3)
    generate.run("tiny/llama", str(questions), out=out, max_new_tokens=2)
    before = out.read_bytes()
    assert len(before.splitlines()) == 3
    for other in ({"max_new_tokens": 3}, {"seed": 1}, {"temperature": 1.0}):
        with pytest.raises(ConfigError, match="was begun with another model"):
            generate.run("tiny/llama", str(questions), out=out, **({"max_new_tokens": 2} | other))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="was begun with another model"):
        generate.run("tiny/qwen2", str(questions), out=out, max_new_tokens=2)
    questions.write_text(questions.read_text().replace("hurts 1", "itches 1"))
    with pytest.raises(ConfigError, match="line 2 is not the question"):
        generate.run("tiny/llama", str(questions), out=out, max_new_tokens=2)
    assert out.read_bytes() == before


def test_bad_rows_are_named_and_answered_once_they_are_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    questions, out = write_questions(tmp_path / "q.jsonl", 3), tmp_path / "a.jsonl"
    whole = questions.read_text()
    command = [
        "seektune",
        "generate",
        "tiny/llama",
        str(questions),
        "--out",
        str(out),
        "--max-new-tokens",
        "2",
    ]

    def exit_code() -> object:
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit) as left:
            cli.main()
        return left.value.code

    questions.write_text(whole.replace('"prompt": "the eye hurts 1"', '"promt": "the eye hurts 1"'))
    for _ in range(2):
        assert exit_code() == 1
        assert "1 have no answer, see" in capsys.readouterr().err
        assert sorted(row["line"] for row in rows_in(out)) == [1, 3]
        [bad] = rows_in(tmp_path / "a.errors.jsonl")
        assert bad["line"] == 2
        assert "a row has a prompt or messages" in bad["reason"]
    questions.write_text(whole)
    assert exit_code() == 0
    assert [row["line"] for row in rows_in(out)][2:] == [2]
    assert not (tmp_path / "a.errors.jsonl").exists()


def test_a_row_that_is_bad_now_and_was_answered_is_an_error(tmp_path: Path) -> None:
    questions, out = write_questions(tmp_path / "q.jsonl", 2), tmp_path / "a.jsonl"
    generate.run("tiny/llama", str(questions), out=out, max_new_tokens=2)
    questions.write_text("not JSON\n" + questions.read_text().partition("\n")[2])
    with pytest.raises(ConfigError, match="line 1 is not the question"):
        generate.run("tiny/llama", str(questions), out=out, max_new_tokens=2)


def test_questions_are_not_written_over(tmp_path: Path) -> None:
    questions = write_questions(tmp_path / "q.jsonl", 2)
    with pytest.raises(ConfigError, match="is a file of questions: add --out"):
        generate.run("tiny/llama", str(questions))
    with pytest.raises(ConfigError, match="would be written over"):
        generate.run("tiny/llama", str(questions), out=questions)
    errors = questions.rename(tmp_path / "a.errors.jsonl")
    with pytest.raises(ConfigError, match="would be written over"):
        generate.run("tiny/llama", str(errors), out=tmp_path / "a.jsonl")
    assert errors.exists()


def test_a_killed_run_goes_on_with_what_is_left(tmp_path: Path) -> None:
    questions, out = write_questions(tmp_path / "q.jsonl", 300), tmp_path / "a.jsonl"
    command = [sys.executable, "-m", "seektune", "generate", "tiny/llama", str(questions), "--out", str(out)]
    process = subprocess.Popen([*command, "--max-new-tokens", "8"], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not out.exists() or out.read_bytes().count(b"\n") < 30:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    process.kill()
    process.wait()
    killed = out.read_bytes()
    assert 30 <= killed.count(b"\n") < 300
    os.truncate(out, len(killed) - 20)  # as if a line was being written
    whole = killed[: killed[:-20].rindex(b"\n") + 1]

    assert generate.run("tiny/llama", str(questions), out=out, max_new_tokens=8) == 0
    assert out.read_bytes().startswith(whole)
    answers = sorted(rows_in(out), key=lambda row: row["line"])
    assert [row["line"] for row in answers] == list(range(1, 301))
    at_once = tmp_path / "once.jsonl"
    generate.run("tiny/llama", str(questions), out=at_once, max_new_tokens=8)
    expected = sorted(rows_in(at_once), key=lambda row: row["line"])
    assert [row["text"] for row in answers] == [row["text"] for row in expected]
