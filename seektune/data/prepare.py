"""From files of records to samples on disk, with a report of everything that happened on the way."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np

from seektune.config.data import DataConfig
from seektune.data.batches import Batches
from seektune.data.duplicates.index import Index
from seektune.data.fates import Fates, decide
from seektune.data.fingerprint import fingerprint
from seektune.data.gather import Gathered, Gatherer
from seektune.data.ledger import Account, Ledger, check_quality
from seektune.data.negatives.make import Counts, negatives
from seektune.data.prepared import Chosen, RowTable, SampleTable, dump_row
from seektune.data.profile.asked import asked_texts
from seektune.data.profile.counts import Profile
from seektune.data.profile.match import match
from seektune.data.samples import Tokeniser, marked, shown
from seektune.data.split import question_key
from seektune.data.templates.lengths import costliest, percentiles
from seektune.data.templates.lint import template_differs
from seektune.errors import DataError
from seektune.runlog import write_json, write_text
from seektune.types import Chat, Example, Row

SIDES = ("train", "eval")
SHOWN = 3
"""Samples written to samples.txt."""


@dataclass(frozen=True)
class Prepared:
    """A run's data: rows to evaluate with, samples to train on, both read from disk as needed."""

    folder: Path
    report: dict[str, Any]
    train: SampleTable
    held_out: SampleTable
    train_rows: RowTable
    held_out_rows: RowTable
    reused: bool = False  # nothing had changed since it was made


def prepare(config: DataConfig, chat: Chat, folder: Path, *, seed: int = 0) -> Prepared:
    """Prepare the data that `config` names in `folder`, or take what lies there when nothing changed.

    `folder` gets report.json, quarantine.jsonl, dropped.jsonl, samples.txt and `prepared/`. Memory does not
    grow with the rows beyond some hundred bytes each. Raises DataError when too many records are unusable
    or none is left.
    """
    key = fingerprint(config, chat, seed)
    if key is not None and _recorded_key(folder) == key:
        return _packed(replace(open_prepared(folder), reused=True), config, seed)
    for name in ("report.json", "report.html", "negatives.jsonl"):
        (folder / name).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".preparing-", dir=folder) as work, Ledger(folder) as ledger:
        report = _Build(config, chat, folder, Path(work), ledger, seed).run()
        shutil.rmtree(folder / "prepared", ignore_errors=True)
        (Path(work) / "prepared").rename(folder / "prepared")
    write_json(folder / "report.json", {"key": key, "config": config.model_dump(mode="json"), **report})
    return _packed(open_prepared(folder), config, seed)


def open_prepared(folder: Path) -> Prepared:
    """What `prepare` left in `folder`; raises DataError when it did not finish there."""
    report = folder / "report.json"
    if not report.exists():
        raise DataError(f"{folder} holds no prepared data: `seektune prepare` makes it")
    made = folder / "prepared"
    return Prepared(
        folder=folder,
        report=json.loads(report.read_text(encoding="utf-8")),
        train=SampleTable(made / "train.samples.arrow"),
        held_out=SampleTable(made / "eval.samples.arrow"),
        train_rows=RowTable(made / "train.rows.arrow"),
        held_out_rows=RowTable(made / "eval.rows.arrow"),
    )


@dataclass(frozen=True)
class _Build:
    config: DataConfig
    chat: Chat
    folder: Path
    work: Path
    ledger: Ledger
    seed: int

    def run(self) -> dict[str, Any]:
        """Every step in order; the report."""
        wall, cpu = time.perf_counter(), time.process_time()
        gatherer = Gatherer(self.config, self.ledger)
        train, other, fates = self._rows(gatherer)
        (self.work / "prepared").mkdir()
        tokeniser = Tokeniser(self.config, self.chat, self.ledger)
        profiles = Profile(self.seed), Profile(self.seed)
        sources = train, other or train
        totals = [
            tokeniser.run(gathered, numbers, *self._paths(side), profile)
            for side, gathered, numbers, profile in zip(
                SIDES, sources, (fates.train, fates.held_out), profiles, strict=True
            )
        ]
        samples = SampleTable(self._paths("train")[1])
        if not len(samples):
            raise DataError(f"nothing is left to train on: {self._reasons()}")
        profile = profiles[0].to_json()
        accounts = [*train.accounts, *(other.accounts if other else ())]
        return {
            **_counts(accounts, totals, [len(RowTable(self._paths(side)[0])) for side in SIDES]),
            "sources": [account.to_json() for account in accounts],
            "quarantine": {kind: reason.to_json() for kind, reason in self.ledger.quarantine.items()},
            "drops": {kind: reason.to_json() for kind, reason in self.ledger.drops.items()},
            "cleaning": gatherer.tally.to_json(),
            "documents": asdict(gatherer.unpaired) if gatherer.unpaired.documents else None,
            **fates.report,
            "lint": {name: reason.to_json() for name, reason in tokeniser.lints.items()},
            "template": self.chat.template,
            "template_differs": template_differs(self.chat),
            "lengths": self._lengths(samples, profile["tokens"]["histogram"]),
            "profile": profile,
            "match": self._match(profiles[0]),
            "negatives": self._negatives(Chosen(train.rows, fates.train)),
            "sample": self._samples(samples),
            "seconds": round(time.perf_counter() - wall, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
        }

    def _rows(self, gatherer: Gatherer) -> tuple[Gathered, Gathered | None, Fates]:
        """Both splits read, and which of their rows stay."""
        source = self.config.eval.source
        index = Index(self.work / "train", self.config.dedup, leakage=source is not None)
        keys = array("Q")

        def observe(row: Row) -> None:
            index.add(row)
            if self.config.eval.fraction is not None:
                keys.append(question_key(row, self.seed))

        train = gatherer.gather("train", self.config.train, self.work / "train.arrow", observe)
        other = None
        if source is not None:
            theirs = Index(self.work / "eval", self.config.dedup, duplicates=False)
            other = gatherer.gather("eval", [source], self.work / "eval.arrow", theirs.add), theirs
        accounts = [*train.accounts, *(other[0].accounts if other else ())]
        check_quality(accounts, self.ledger, self.config.max_bad_fraction, self.folder)
        if not len(train.rows):
            files = ", ".join(account.file for account in train.accounts)
            raise DataError(f"{files} holds no records to train on: {self._reasons()}")
        numbers = np.frombuffer(keys, np.uint64) if keys else np.empty(0, np.uint64)
        fates = decide(self.config, train, index, numbers, other, self.work, self.ledger)
        return train, other and other[0], fates

    def _paths(self, side: str) -> tuple[Path, Path]:
        folder = self.work / "prepared"
        return folder / f"{side}.rows.arrow", folder / f"{side}.samples.arrow"

    def _reasons(self) -> str:
        reasons = chain(self.ledger.quarantine.items(), self.ledger.drops.items())
        return "; ".join(f"{reason.count:,} × {kind}" for kind, reason in reasons) or "the files are empty"

    def _lengths(self, samples: SampleTable, histogram: dict[str, Any]) -> dict[str, Any]:
        lengths = samples.lengths + 1  # the last token is a target only
        return {
            "train": percentiles(lengths),
            "costliest": costliest(lengths, lambda number: samples[number].row_id),
            "histogram": histogram,
            "max_length": self.config.max_length,
            "too_long": self.config.too_long,
        }

    def _match(self, profile: Profile) -> dict[str, Any] | None:
        if self.config.target is None:
            return None
        names, prompts, _ = zip(*profile.sample, strict=True)
        return match(prompts, asked_texts(self.config.target), self.seed, names).to_json()

    def _negatives(self, rows: Chosen) -> dict[str, Any] | None:
        """Write negatives.jsonl: preferences without prefix or system prompt, for a run of their own."""
        if self.config.negatives is None:
            return None
        if not isinstance(rows[0], Example):
            raise DataError("data.negatives makes pairs, but these rows are pairs already: remove it")
        counts = Counts()
        with (self.folder / "negatives.jsonl").open("w", encoding="utf-8") as file:
            for pair in negatives(cast(Sequence[Example], rows), self.config.negatives, self.seed, counts):
                file.write(dump_row(pair) + "\n")
        return counts.to_json()

    def _samples(self, samples: SampleTable) -> dict[str, Any]:
        """Write samples.txt; the first sample, for the report."""
        chosen = [(sample.row_id, shown(self.chat, sample)) for sample in samples[:SHOWN]]
        write_text(
            self.folder / "samples.txt",
            "\n\n".join(f"# {row}\n{marked(pieces)}" for row, pieces in chosen) + "\n",
        )
        row, pieces = chosen[0]
        return {"row": row, "pieces": pieces}


def _packed(ready: Prepared, config: DataConfig, seed: int) -> Prepared:
    """With the packing in its report: it is made anew for every run, from the lengths alone."""
    made = Batches(samples=ready.train, pack_tokens=config.pack_tokens, seed=seed)
    mode = "rows" if config.pack_tokens is None else "packed"
    packing = {"mode": mode, "rows": len(made), "fill": round(made.fill, 4)}
    if ready.report.get("packing") == packing:
        return ready
    report = ready.report | {"packing": packing}
    write_json(ready.folder / "report.json", report)
    return replace(ready, report=report)


def _recorded_key(folder: Path) -> str | None:
    report = folder / "report.json"
    if not report.exists() or not (folder / "prepared").is_dir():
        return None
    key: str | None = json.loads(report.read_text(encoding="utf-8")).get("key")
    return key


def _counts(
    accounts: Sequence[Account], totals: Sequence[dict[str, int]], rows: Sequence[int]
) -> dict[str, Any]:
    """What became of all records, and of each split's; a held-out fraction counts as records of its own."""
    quarantined, dropped = (
        {side: sum(getattr(account, fate) for account in accounts if account.split == side) for side in SIDES}
        for fate in ("quarantined", "dropped")
    )
    splits = {
        side: {
            "total": kept + quarantined[side] + dropped[side],
            "kept": kept,
            "quarantined": quarantined[side],
            "dropped": dropped[side],
            **counts,
        }
        for side, kept, counts in zip(SIDES, rows, totals, strict=True)
    }
    fates = ("total", "kept", "quarantined", "dropped")
    return {**{fate: sum(splits[side][fate] for side in SIDES) for fate in fates}, "splits": splits}
