"""The data report: one HTML file about what came in, what became of it, and what to look at."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from seektune.reports.html import page
from seektune.runlog import write_text

SECTIONS: Mapping[str, Any] = MappingProxyType(
    {
        "splits": {}, "sources": [], "quarantine": {}, "drops": {}, "cleaning": {}, "lint": {},
        "duplicates": {"exact": 0, "near": 0, "conflicts": 0, "capped": False, "pairs": [],
                       "conflicting": []},
        "leakage": {"exact": 0, "near": 0, "pairs": []},
        "lengths": {"train": {}, "costliest": [], "histogram": {}, "max_length": None, "too_long": ""},
        "template": "", "template_differs": None, "packing": {}, "profile": {}, "match": None,
        "negatives": None, "documents": None, "sample": None, "cpu_seconds": 0,
    }
)  # fmt: skip
"""What a report.json may leave out, and what then stands for it."""
FATES = ("kept", "quarantined", "dropped")
POLICIES: Mapping[str, str] = MappingProxyType(
    {
        "drop": "dropped",
        "cut_left": "the question is cut at its start",
        "cut_right": "the question is cut at its end",
        "cut_middle": "the question is cut in its middle",
        "split": "split between turns",
    }
)
"""What `data.too_long` does, in words."""
LANGUAGES: Mapping[str, str] = MappingProxyType(
    {
        "en": "English", "zh": "Chinese", "ja": "Japanese", "ko": "Korean", "de": "German", "fr": "French",
        "es": "Spanish", "pt": "Portuguese", "it": "Italian", "nl": "Dutch", "ru": "Russian", "ar": "Arabic",
        "und": "undetermined",
    }
)  # fmt: skip
LEAST_FILL, MOST_IMBALANCE = 0.9, 10
HEAD = TAIL = 300  # tokens of the sample that are shown
ORDINALS = ("first", "second", "third", "fourth", "fifth")


@dataclass(frozen=True)
class Bar:
    """A bar of a chart: `size` in per cent of its frame, `says` the numbers behind it."""

    name: str
    size: float
    says: str
    kind: str = ""


def write_data_report(folder: Path | str) -> Path:
    """Write `folder`/report.html from `folder`/report.json; returns its path.

    The histograms have one more edge than counts. Sections that are absent or empty are not shown.
    """
    folder = Path(folder)
    report = filled(json.loads((folder / "report.json").read_text("utf-8")))
    name = folder.resolve().parent.name if folder.resolve().name == "data" else folder.resolve().name
    html = page(
        "data.html.jinja",
        name=name,
        report=report,
        findings=list(findings(report)),
        fates=fates,
        histogram=histogram,
        shares=shares,
        places=places,
        languages=lambda found: {LANGUAGES.get(code, code): share for code, share in found.items()},
        POLICIES=POLICIES,
        shown=shown,
    )
    write_text(folder / "report.html", html)
    return folder / "report.html"


def findings(report: Mapping[str, Any]) -> Iterator[str]:
    """Plain sentences about what deserves a look, the gravest first."""
    exact, near = report["leakage"]["exact"], report["leakage"]["near"]
    if exact or near:
        rows = _many(exact + near, "training row repeats", "training rows repeat")
        kept = report.get("config", {}).get("dedup", {}).get("leakage") == "report"
        fate = "kept, as data.dedup.leakage says" if kept else "dropped"
        yield f"{rows} an evaluation question, {exact:,} exactly and {near:,} nearly: {fate}."
    if report["quarantined"]:
        share = f"{report['quarantined']:,} of {_many(report['total'], 'record')}"
        yield f"{share} cannot be used as given; quarantine.jsonl has file, line and reason."
    if report["template_differs"]:
        differs = f"it differs from {report['template']}'s: {report['template_differs']}"
        yield f"The tokenizer's own chat template is used; {differs}"
    for name, found in report["lint"].items():
        yield f"{_many(found['count'], 'row')} with {_words(name)}."
    if (report["match"] or {}).get("differs"):
        yield "The training texts differ from what the model will be asked."
    yield from _unevenness(report["profile"])
    if conflicts := report["duplicates"]["conflicts"]:
        such = "".join(f", such as {a} and {b}" for a, b in report["duplicates"]["conflicting"][:1])
        yield f"{_many(conflicts, 'pair', 'pairs')} of like questions with different answers{such}."
    if report["duplicates"]["capped"]:
        yield "The search for near duplicates was capped: some texts have too many look-alikes."
    if documents := report["documents"]:
        share = documents["characters"] / max(documents["total"], 1)
        yield f"{_percent(share)} of the documents' text is in no question-answer pair."
    packing = report["packing"]
    if packing.get("mode") == "packed" and packing["fill"] < LEAST_FILL:
        yield f"Packed rows are only {_percent(packing['fill'])} full."
    for source in report["sources"]:
        if source.get("unread"):
            yield f"Not read in {source['file']}: {', '.join(source['unread'])}."


def fates(part: Mapping[str, Any]) -> list[Bar]:
    """What became of the records of `part`, in per cent of its total; fates of none are left out."""
    total = max(part["total"], 1)
    return [Bar(fate, 100 * part[fate] / total, f"{part[fate]:,}", fate) for fate in FATES if part[fate]]


def histogram(drawn: Mapping[str, Sequence[float]]) -> list[Bar]:
    """Bars in per cent of the highest; empty bins keep their place."""
    counts, edges = drawn["counts"], drawn["edges"]
    highest = max(counts, default=0) or 1
    return [
        Bar(f"{low:,.0f}", 100 * count / highest, f"{low:,.0f} to {high:,.0f}: {count:,.0f}")
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]


def shares(counts: Mapping[str, float], most: int = 12) -> list[Bar]:
    """Bars in per cent of all, commonest first; what is beyond `most` stands together as "other"."""
    total = sum(counts.values()) or 1
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    named, rest = ordered[:most], [count for _, count in ordered[most:]]
    if rest:
        named.append((f"{len(rest):,} others", sum(rest)))
    return [
        Bar(name, 100 * count / total, f"{count / total:.1%}".replace("%", " %")) for name, count in named
    ]


def places(counts: Sequence[int]) -> list[Bar]:
    """How often each place among the options held the right answer, in per cent, in order."""
    total = sum(counts) or 1
    return [
        Bar(_ordinal(at), 100 * count / total, f"{100 * count / total:.1f}\u00a0%")
        for at, count in enumerate(counts)
    ]


def shown(pieces: Sequence[tuple[str, float]]) -> list[tuple[str, str, str]]:
    """(text, class, title) of a sample's tokens; the middle of a long one is left out, and says so."""
    kept = [_token(text, weight) for text, weight in pieces]
    left_out = len(kept) - HEAD - TAIL
    if left_out <= 0:
        return kept
    return [*kept[:HEAD], (f"\n… {left_out:,} tokens not shown …\n", "gap", ""), *kept[-TAIL:]]


def _token(text: str, weight: float) -> tuple[str, str, str]:
    kind = "loss" if weight > 0 else "free"
    # A line break inside a token would hide which token it belongs to.
    return text.replace("\n", "↵\n"), kind, f"weight {weight:g}" if weight not in (0, 1) else ""


def _unevenness(profile: Mapping[str, Any]) -> Iterator[str]:
    for places in profile.get("positions", ()):
        if places["favoured"]:
            most, total = max(places["counts"]), sum(places["counts"])
            place = _ordinal(places["counts"].index(most))
            chance = f"by chance {_percent(1 / places['options'])}: a model can learn the place"
            yield (
                f"Of {places['options']} options the {place} is right in {_percent(most / total)}"
                f" of questions, {chance}."
            )
    for labels in profile.get("labels", ()):
        if labels["imbalance"] is None or labels["imbalance"] > MOST_IMBALANCE:
            names = list(labels["counts"])
            rarest = _many(labels["counts"][names[-1]], "row")
            share = _percent(labels["commonest_share"])
            yield f"Labels are uneven: “{names[0]}” has {share} of the rows, “{names[-1]}” {rarest}."


def filled(given: Mapping[str, Any]) -> dict[str, Any]:
    """The report with every section there; a section's missing parts are filled in too."""
    filled = dict(SECTIONS) | dict(given)
    parts = {name: {**SECTIONS[name], **filled[name]} for name in ("duplicates", "leakage", "lengths")}
    return filled | parts


def _ordinal(at: int) -> str:
    return ORDINALS[at] if at < len(ORDINALS) else f"{at + 1}th"


def _many(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%"


def _words(name: str) -> str:
    return name.replace("_", " ")
