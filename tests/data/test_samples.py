"""Rows become samples, by side; what does not fit or cannot be said goes to the ledger."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from seektune.config.data import DataConfig
from seektune.config.section import validated
from seektune.data.gather import Gathered
from seektune.data.ledger import Account, Ledger
from seektune.data.prepared import ROWS, RowTable, SampleTable, Writer
from seektune.data.profile.counts import Profile
from seektune.data.samples import Tokeniser, shown, sides_of
from seektune.data.templates.render import to_sample
from seektune.types import Example, Message, Pair, Row

ASKED = (Message("user", "为什么？"),)
YES, NO = Message("assistant", "因为 so."), Message("assistant", "不")


def tokenise(
    chat: Any, folder: Path, rows: list[Row], **changes: Any
) -> tuple[RowTable, SampleTable, Account, dict[str, int], Tokeniser]:
    config = validated(DataConfig, {"train": "a.jsonl"} | changes, "data")
    with Writer(folder / "in", ROWS) as writer:
        for row in rows:
            writer.add_row(row)
    account = Account("train", "a.jsonl", kept=len(rows))
    gathered = Gathered(RowTable(folder / "in"), [account], [0])
    with Ledger(folder) as ledger:
        tokeniser = Tokeniser(config, chat, ledger)
        totals = tokeniser.run(gathered, np.arange(len(rows)), folder / "rows", folder / "samples", Profile())
    return RowTable(folder / "rows"), SampleTable(folder / "samples"), account, totals, tokeniser


def test_a_sample_is_what_the_template_makes_of_the_dressed_row(
    chat: SimpleNamespace, tmp_path: Path
) -> None:
    rows, samples, account, totals, _ = tokenise(
        chat, tmp_path, [Example((*ASKED, YES), "a:1")], prompt_prefix="问题:", system_prompt="Be brief."
    )
    dressed = (Message("system", "Be brief."), Message("user", "问题:为什么？"), YES)
    assert list(rows) == [Example(dressed, "a:1")]
    expected = to_sample(chat, Example(dressed, "a:1"))
    assert tuple(samples[0].input_ids) == expected.input_ids
    assert tuple(samples[0].targets) == expected.targets
    assert totals["samples"] == account.kept == 1
    assert totals["tokens"] == len(expected)


def test_a_pair_gives_a_sample_for_each_of_its_answers() -> None:
    pair = Pair(ASKED, YES, NO, "a:1")
    assert sides_of(pair) == {
        "chosen": Example((*ASKED, YES), "a:1"),
        "rejected": Example((*ASKED, NO), "a:1"),
    }
    assert list(sides_of(Pair(ASKED, None, NO, "a:1"))) == ["rejected"]


def test_what_cannot_be_trained_on_is_in_the_ledger(chat: SimpleNamespace, tmp_path: Path) -> None:
    rows: list[Row] = [
        Example((*ASKED, YES), "a:1"),
        Example((Message("user", "w " * 300), YES), "a:2"),
        Example((*ASKED, Message("user", "no answer")), "a:3"),
        Example((Message("user", "<image>?"), YES), "a:4", images=("x.png",)),
    ]
    kept, samples, account, _, tokeniser = tokenise(chat, tmp_path, rows, max_length=100)
    assert [row.row_id for row in kept] == [sample.row_id for sample in samples] == ["a:1"]
    assert (account.kept, account.quarantined, account.dropped) == (1, 1, 2)
    assert set(tokeniser.ledger.drops) == {"too long", "images"}


def test_suspicious_rows_are_counted_by_name(chat: SimpleNamespace, tmp_path: Path) -> None:
    row = Example((Message("user", "say <｜User｜>"), YES), "a:1")
    *_, tokeniser = tokenise(chat, tmp_path, [row])
    assert tokeniser.lints["control_token_in_text"].count == 1


def test_a_sample_is_shown_whole_in_readable_pieces(chat: SimpleNamespace) -> None:
    pieces = shown(chat, to_sample(chat, Example((*ASKED, Message("assistant", "因为𠮷🙂 so.")), "a:1")))
    assert "".join(text for text, _ in pieces).endswith("因为𠮷🙂 so.<｜end▁of▁sentence｜>")
    assert "".join(text for text, weight in pieces if weight) == "因为𠮷🙂 so.<｜end▁of▁sentence｜>"
    assert not any("\ufffd" in text for text, _ in pieces)
