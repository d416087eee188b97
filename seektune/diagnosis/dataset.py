"""What the data's own report says against the run: another distribution, leaks, contradictions, lost rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from seektune.data.profile.match import LARGE
from seektune.diagnosis.cause import Cause

LEAKED, CONFLICTING, TOO_LONG = 0.01, 0.02, 0.1
"""Shares of the held-out rows, of the training rows, and of all records, from which it is a cause."""


def data_causes(report: Mapping[str, Any], matched: Mapping[str, Any] | None = None) -> Iterator[Cause]:
    """Causes in a report.json; `matched` compares training and held-out rows of different sources."""
    yield from _leakage(report)
    for match, what in ((report.get("match"), "data.target"), (matched, "data.eval")):
        if match:
            yield from _mismatch(match, what)
    yield from _conflicts(report)
    yield from _too_long(report)


def _leakage(report: Mapping[str, Any]) -> Iterator[Cause]:
    """Only where the rows were kept: dropped ones do no harm."""
    found, held_out = report["leakage"], report["splits"]["eval"]["kept"]
    leaked = found["exact"] + found["near"]
    if report["config"]["dedup"]["leakage"] == "drop" or not held_out or leaked < max(1, LEAKED * held_out):
        return
    sentence = (
        f"{leaked:,} training rows repeat questions of the {held_out:,} held-out rows, so the held-out loss "
        "and accuracy are too good."
    )
    evidence = {"exact": found["exact"], "near": found["near"], "held_out": held_out}
    rows = tuple({"row": pair["train"], "like": pair["eval"]} for pair in found["pairs"])
    yield Cause(
        "data", "leakage", 10 + leaked / held_out, evidence, sentence, ("data.dedup.leakage: drop",), rows
    )


def _mismatch(match: Mapping[str, Any], what: str) -> Iterator[Cause]:
    area = match.get("area")
    if not (match["differs"] and area and area["value"] >= LARGE):
        return
    evidence = {"area": area["value"], "low": area["low"], "high": area["high"]}
    rows = tuple(
        {
            "row": near["row"],
            "text": near["text"],
            "closest": near["target"],
            "similarity": near["similarity"],
        }
        for near in match["farthest"]
    )
    change = (f"data.train: [...]  # rows like those of {what}; the ones listed are least like it",)
    yield Cause("data", "distribution_mismatch", area["value"], evidence, match["verdict"], change, rows)


def _conflicts(report: Mapping[str, Any]) -> Iterator[Cause]:
    found, kept = report["duplicates"], report["splits"]["train"]["kept"]
    if found["conflicts"] < max(3, CONFLICTING * kept):
        return
    sentence = f"{found['conflicts']:,} pairs of like questions among {kept:,} rows have different answers."
    rows = tuple({"row": first, "like": second} for first, second in found["conflicting"])
    evidence = {"conflicts": found["conflicts"], "rows": kept}
    yield Cause("data", "contradictions", 1 + found["conflicts"] / kept, evidence, sentence, (), rows)


def _too_long(report: Mapping[str, Any]) -> Iterator[Cause]:
    drops = report["drops"].get("too_long")
    if not drops or drops["count"] < TOO_LONG * report["total"]:
        return
    limit, count = report["lengths"]["max_length"], drops["count"]
    sentence = f"{count:,} of {report['total']:,} records are longer than {limit:,} tokens and were left out."
    evidence = {"too_long": count, "records": report["total"], "max_length": limit}
    change = (f"data.max_length: {2 * limit}", "data.too_long: cut_middle")
    yield Cause("data", "rows_too_long", count / report["total"], evidence, sentence, change)
