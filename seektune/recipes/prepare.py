"""`seektune prepare`: look at the data before anything is trained on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from seektune.config.run import RunConfig
from seektune.data.prepare import Prepared, prepare
from seektune.data.samples import marked
from seektune.errors import DataError
from seektune.models.chat import load_chat
from seektune.reports.data import filled, findings, write_data_report
from seektune.types import Chat

HEAD, TAIL = 150, 350
"""Tokens of the sample that are printed, from its start and from its end."""


def run(config: RunConfig, *, console: Console | None = None) -> Prepared:
    """Prepare a run's data, print what became of it and one sample, and write the report."""
    console = console or Console()
    ready = summarised(config, load_chat(config.base_model), console=console)
    console.print()
    console.print(sample(ready.report["sample"], coloured=console.is_terminal))
    console.print(f"\nmore samples: {ready.folder / 'samples.txt'}", soft_wrap=True)
    console.print(f"report: {ready.folder / 'report.html'}", soft_wrap=True)
    return ready


def prepared(config: RunConfig, chat: Chat, *, console: Console) -> Prepared:
    """The run's data to learn answers from, summarised on the console; raises DataError for preferences."""
    ready = summarised(config, chat, console=console)
    pairs = [file["file"] for file in ready.report["sources"] if file["format"] in ("preference", "kto")]
    if pairs:
        raise DataError(
            f"{', '.join(pairs)}: preferences, and objective sft learns from answers: it would learn the "
            "rejected ones too; give records with one answer each"
        )
    return ready


def summarised(config: RunConfig, chat: Chat, *, console: Console) -> Prepared:
    """The run's data, made or found in its folder, and a summary of it on the console."""
    folder = config.output_dir / "data"
    with console.status("preparing data …"):
        ready = prepare(config.data, chat, folder, seed=config.training.seed)
    write_data_report(folder)
    if ready.reused:
        console.print(f"unchanged, taken from {folder}", soft_wrap=True)
    console.print(sources(ready.report["sources"]))
    for line in summary(ready.report, folder):
        console.print(line, highlight=False, soft_wrap=True)
    return ready


def sources(files: Sequence[Mapping[str, Any]]) -> Table:
    """Every file: what it was taken for, and what became of its records."""
    page = Table(box=None, pad_edge=False)
    for name in ("file", "format", "encoding"):
        page.add_column(name, overflow="fold")
    for name in ("records", "kept", "bad", "dropped"):
        page.add_column(name, justify="right")
    names = Counter(Path(file["file"]).name for file in files)
    for file in files:
        path = Path(file["file"])
        name = path.name if names[path.name] == 1 else "/".join(path.parts[-2:])
        numbers = [f"{file[key]:,}" for key in ("total", "kept", "quarantined", "dropped")]
        page.add_row(escape(name), file["format"], file["encoding"] or file["kind"], *numbers)
    return page


def summary(report: Mapping[str, Any], folder: Path) -> list[str]:
    """What a reader must know, a line each; nothing about what did not happen. `folder` has the details."""
    train, held_out = report["splits"]["train"], report["splits"]["eval"]
    lengths, packing = report["lengths"], report["packing"]
    learned = train["trained_tokens"] / max(train["tokens"], 1)
    lines = [
        f"{counted(train['kept'], 'row')} to train on, {held_out['kept']:,} held out; "
        f"{train['tokens']:,} tokens, {learned:.0%} of them learned",
        f"tokens a row: median {lengths['train']['p50']:,.0f}, 99 % within {lengths['train']['p99']:,.0f}, "
        f"longest {lengths['train']['max']:,.0f} of {lengths['max_length']:,}",
    ]
    if packing["mode"] == "packed":
        lines.append(f"packed into {counted(packing['rows'], 'row')}, {packing['fill']:.1%} full")
    lines += _listed("bad", report["quarantine"], folder / "quarantine.jsonl")
    lines += _listed("dropped", report["drops"], folder / "dropped.jsonl")
    lines += _listed("cleaned", report["cleaning"])
    if negatives := report["negatives"]:
        kinds = [value for value in negatives.values() if isinstance(value, dict)]
        made, refused = (sum(kind[key] for kind in kinds) for key in ("made", "refused"))
        lines.append(f"negatives: {made:,} made, {refused:,} refused (in {folder / 'negatives.jsonl'})")
    if report["match"]:
        lines.append(report["match"]["verdict"])
    lines += [f"! {finding}" for finding in findings(filled(report))]
    return [escape(line) for line in lines]


def counted(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def sample(shown: Mapping[str, Any], coloured: bool = True) -> Text:
    """One sample as tokens: what is learned is green, or stands in ⟦ ⟧ where there are no colours."""
    text = Text(f"{shown['row']} ", style="bold")
    text.append(f"({'green' if coloured else 'in ⟦ ⟧'} is learned)\n", style="dim")
    if not coloured:
        return text.append(marked(shown["pieces"]))
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
    return [f"{what}: {listed}" + (f" (in {file})" if file else "")]
