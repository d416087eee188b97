"""`seektune generate`: one question, one streamed answer; or a file of questions, a file of answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from seektune.data.records import Bad
from seektune.errors import ConfigError
from seektune.generation.generate import stream
from seektune.generation.request import Sampling
from seektune.recipes.adapted import Resident, open_adapted, open_resident, opening
from seektune.recipes.answer_file import AnswerFile, bad_path
from seektune.recipes.answering import Answer, answered
from seektune.recipes.progress import count
from seektune.recipes.questions import Asking, Question, hashed, read_questions
from seektune.types import Message


def run(
    model: str,
    prompt: str,
    *,
    out: Path | None = None,
    adapters: Sequence[Path] = (),
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
) -> int:
    """Print the answer to one question as it is made, or answer the rows of the file `prompt` into `out`.

    Returns the number of rows that have no answer. A question is one user turn of a chat; a run folder's
    system prompt and prompt prefix are used as in training.
    """
    sampling = Sampling(max_tokens=max_new_tokens, temperature=temperature, seed=seed)
    asking = Asking(sampling, *opening(model))
    if out is not None:
        console = Console(stderr=True, highlight=False, markup=False)
        return answer_file(model, Path(prompt), out, asking, adapters, console)
    if ".jsonl" in Path(prompt).suffixes and Path(prompt).is_file():
        raise ConfigError(f"{prompt} is a file of questions: add --out answers.jsonl")
    messages = [*asking.system, Message("user", asking.prefix + prompt)]
    for piece in stream(
        open_adapted(model, adapters),
        messages,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    ):
        print(piece, end="", flush=True)
    print(flush=True)
    return 0


def answer_file(
    model: str, questions: Path, out: Path, asking: Asking, adapters: Sequence[Path], console: Console
) -> int:
    """Answer the rows of `questions` that `out` holds no answer to; how many have none.

    What is wrong with the files is said before the model is loaded: DataError for questions that cannot be
    read, ConfigError for answers to other ones. Answers made with other settings are a ConfigError too.
    """
    if questions.resolve() in (out.resolve(), bad_path(out).resolve()):
        raise ConfigError(f"{questions} would be written over: name another file for the answers")
    with closing(AnswerFile(out)) as answers:
        left = _survey(read_questions(questions, asking), answers)
        resident = open_resident(model, adapters)
        answers.begin(_settings(resident, asking))
        if answers.answered:
            console.print(f"{answers.answered:,} rows have their answer, {left:,} are left", soft_wrap=True)
        rows = (row for row in read_questions(questions, asking) if not _is_held(row, answers))
        told = count(answered(resident, rows), left, console=console, what="answered")
        _write(told, answers, console)
        return answers.bad


def _survey(rows: Iterator[Question | Bad], answers: AnswerFile) -> int:
    """The number of rows to answer, once it is known that all answers are to these questions."""
    left = last = 0
    for row in rows:
        left, last = left + (not _is_held(row, answers)), row.line
    answers.check_end(last)
    return left


def _is_held(row: Question | Bad, answers: AnswerFile) -> bool:
    return answers.holds(row.line, hashed(row.raw if isinstance(row, Bad) else row.record.fields))


def _write(rows: Iterator[Answer | Bad], answers: AnswerFile, console: Console) -> None:
    began, before, tokens = time.perf_counter(), answers.answered, 0
    for row in rows:
        if isinstance(row, Bad):
            answers.append_bad(row)
        else:
            tokens += row.last.completion_tokens
            answers.append(row.question.line, hashed(row.question.record.fields), row.to_json())
    speed = tokens / (time.perf_counter() - began)
    done = f"{answers.answered - before:,} rows answered, {tokens:,} tokens, {speed:,.0f} tokens/s"
    bad = f"; {answers.bad:,} have no answer, see {answers.bad_path}" if answers.bad else ""
    console.print(done + bad, soft_wrap=True)


def _settings(resident: Resident, asking: Asking) -> str:
    """Hash of all that an answer depends on besides its row."""
    adapters = {name: staged.content_hash for name, staged in resident.adapters.items()}
    loaded = resident.loaded
    return hashed([loaded.identity, str(loaded.model.dtype), list(adapters.items()), asdict(asking)])
