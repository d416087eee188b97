"""Which rows train and which are held out: repeats are dropped once, held-out questions never train."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from seektune.config.data import DataConfig
from seektune.config.section import validated
from seektune.data.duplicates.index import Index
from seektune.data.fates import Fates, decide
from seektune.data.gather import Gathered
from seektune.data.ledger import Account, Ledger
from seektune.data.prepared import ROWS, RowTable, Writer
from seektune.data.split import question_key, question_of
from seektune.types import Example, Message

QUESTIONS = tuple(f"question {name}" for name in "abcdefgh")


def gathered(folder: Path, name: str, asked: list[str], config: DataConfig) -> tuple[Gathered, Index]:
    index = Index(folder / name, config.dedup, duplicates=name == "train")
    with Writer(folder / f"{name}.arrow", ROWS) as writer:
        for line, question in enumerate(asked):
            row = Example((Message("user", question), Message("assistant", "so")), f"{name}:{line}")
            writer.add_row(row)
            index.add(row)
    account = Account(name, name, kept=len(asked))
    return Gathered(RowTable(folder / f"{name}.arrow"), [account], [0]), index


def decided(
    folder: Path, train: list[str], held: list[str] | None = None, **changes: Any
) -> tuple[Fates, Gathered, Ledger]:
    config = validated(DataConfig, {"train": "x"} | changes, "data")
    mine, index = gathered(folder, "train", train, config)
    other = None if held is None else gathered(folder, "eval", held, config)
    keys = np.array([question_key(row, 0) for row in mine.rows], np.uint64)
    with Ledger(folder) as ledger:
        fates = decide(config, mine, index, keys, other, folder, ledger)
    return fates, mine, ledger


@settings(max_examples=40)
@given(
    st.lists(st.sampled_from(QUESTIONS), min_size=1, max_size=20),
    st.lists(st.sampled_from(QUESTIONS), max_size=6),
)
def test_every_question_trains_once_unless_it_is_held_out(
    tmp_path_factory: Any, train: list[str], held: list[str]
) -> None:
    fates, mine, ledger = decided(tmp_path_factory.mktemp("fates"), train, held)
    kept = Counter(question_of(mine.rows[number]) for number in fates.train.tolist())
    assert kept == Counter(set(train) - set(held))
    assert len(fates.held_out) == len(held)
    gone = sum(reason.count for reason in ledger.drops.values())
    assert mine.accounts[0].total == len(train) == len(fates.train) + gone
    assert gone == mine.accounts[0].dropped


@settings(max_examples=30)
@given(st.lists(st.sampled_from(QUESTIONS), min_size=3, max_size=20), st.floats(0.1, 0.9))
def test_a_fraction_is_taken_from_what_is_left_without_repeats(
    tmp_path_factory: Any, train: list[str], fraction: float
) -> None:
    if len(set(train)) < 2:
        return
    fates, mine, _ = decided(tmp_path_factory.mktemp("fates"), train, eval={"fraction": fraction})
    sides = [
        {question_of(mine.rows[n]) for n in numbers.tolist()} for numbers in (fates.train, fates.held_out)
    ]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == set(train)
    assert len(fates.train) + len(fates.held_out) == len(set(train))


def test_leakage_may_be_reported_only(tmp_path: Path) -> None:
    fates, _, ledger = decided(
        tmp_path, ["question a", "question b"], ["question b"], dedup={"leakage": "report"}
    )
    assert fates.train.tolist() == [0, 1]
    assert fates.report["leakage"] == {
        "exact": 1,
        "near": 0,
        "pairs": [{"train": "train:1", "eval": "eval:0", "similarity": 1.0}],
    }
    assert not ledger.drops


def test_what_was_dropped_names_the_row_it_repeats(tmp_path: Path) -> None:
    fates, _, ledger = decided(tmp_path, ["question a", "question b", "Question A!"])
    assert fates.report["duplicates"]["pairs"] == [
        {"kept": "train:0", "dropped": "train:2", "similarity": 1.0}
    ]
    assert ledger.drops["duplicate"].examples == [{"row": "train:2", "detail": "like train:0"}]


def test_with_everything_off_nothing_is_dropped(tmp_path: Path) -> None:
    fates, _, _ = decided(tmp_path, ["question a"] * 3, dedup={"exact": False, "near": False})
    assert fates.train.tolist() == [0, 1, 2]
