"""`seektune prepare`: look at the data before anything is trained on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from seektune.config.run import RunConfig
from seektune.data.prepare import Prepared, prepare
from seektune.models.chat import load_chat
from seektune.reports.data import write_data_report
from seektune.types import Chat

HEAD, TAIL = 150, 350
"""Tokens of the sample that are printed, from its start and from its end."""


def run(config: RunConfig, *, console: Console | None = None) -> Prepared:
    """Prepare a run's data, print what became of it and one sample, and write the report."""
    console = console or Console()
    ready = prepared(config, load_chat(config.base_model), console=console)
    console.print()
    console.print(sample(ready.report["sample"]))
    console.print(f"\nmore samples: {ready.folder / 'samples.txt'}")
    console.print(f"report: {ready.folder / 'report.html'}")
    return ready


def prepared(config: RunConfig, chat: Chat, *, console: Console) -> Prepared:
    """The run's data, made or found in its folder, and a summary of it on the console."""
    folder = config.output_dir / "data"
    with console.status("preparing data …"):
        ready = prepare(config.data, chat, folder, seed=config.training.seed)
    write_data_report(folder)
    console.print(sources(ready.report["sources"]))
    for line in summary(ready.report, folder):
        console.print(line, highlight=False)
    return ready


def sources(files: Sequence[Mapping[str, Any]]) -> Table:
    """Every file: what it was taken for, and what became of its records."""
    page = Table(box=None, pad_edge=False)
    for name in ("file", "format", "encoding"):
        page.add_column(name, overflow="fold")
    for name in ("records", "kept", "quarantined", "dropped"):
        page.add_column(name, justify="right")
    for file in files:
        name = "/".join(Path(file["file"]).parts[-2:])
        numbers = [f"{file[key]:,}" for key in ("total", "kept", "quarantined", "dropped")]
        page.add_row(escape(name), file["format"], file["encoding"] or file["kind"], *numbers)
    return page


def summary(report: Mapping[str, Any], folder: Path) -> list[str]:
    """What a reader must know, a line each; nothing about what did not happen. `folder` has the details."""
    train, held_out = report["splits"]["train"], report["splits"]["eval"]
    lengths, packing = report["lengths"], report["packing"]
    lines = [
        f"{train['kept']:,} rows to train on, {held_out['kept']:,} held out; {train['tokens']:,} tokens, "
        f"{train['trained_tokens'] / max(train['tokens'], 1):.0%} of them learned",
        f"tokens a row: median {lengths['train']['p50']:,.0f}, 99 % within {lengths['train']['p99']:,.0f}, "
        f"longest {lengths['train']['max']:,.0f} of {lengths['max_length']:,}",
    ]
    if packing["mode"] == "packed":
        lines.append(f"packed into {packing['rows']:,} rows, {packing['fill']:.1%} full")
    lines += _listed("quarantined", report["quarantine"], folder / "quarantine.jsonl")
    lines += _listed("dropped", report["drops"], folder / "dropped.jsonl")
    lines += _listed("cleaned", report["cleaning"])
    lines += _listed("look at", report["lint"])
    if report["duplicates"]["conflicts"]:
        lines.append(f"{report['duplicates']['conflicts']:,} questions have contradicting answers")
    unread = sorted({column for file in report["sources"] for column in file["unread"]})
    if unread:
        lines.append(f"columns nothing reads: {', '.join(unread)}")
    if report["template_differs"]:
        lines.append(
            f"the tokenizer's own chat template is used; {report['template']}'s differs (see the report)"
        )
    if report["match"]:
        lines.append(report["match"]["verdict"])
    return [escape(line) for line in lines]


def sample(shown: Mapping[str, Any]) -> Text:
    """One sample as tokens: what is learned is green, the rest is read only."""
    text = Text(f"{shown['row']} ", style="bold")
    text.append("(green is learned)\n", style="dim")
    pieces = shown["pieces"]
    if len(pieces) > HEAD + TAIL:
        pieces = [*pieces[:HEAD], [" … ", 0], *pieces[-TAIL:]]
    for place, (piece, weight) in enumerate(pieces):
        shade = ("black on green", "black on bright_green") if weight else ("default", "dim")
        text.append(piece, style=shade[place % 2])
    return text


def _listed(what: str, reasons: Mapping[str, Any], file: Path | None = None) -> list[str]:
    if not reasons:
        return []
    counts = sorted(((reason["count"], name) for name, reason in reasons.items()), reverse=True)[:6]
    listed = ", ".join(f"{count:,} {name.replace('_', ' ')}" for count, name in counts)
    return [f"{what}: {listed}" + (f" (in {'/'.join(file.parts[-3:])})" if file else "")]
