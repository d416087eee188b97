"""`seektune doctor`: what is installed, what this machine can do, which kernels run here, what is missing."""

from __future__ import annotations

from rich.console import Console

from seektune.recipes.check import page
from seektune.recipes.installation import core, extras
from seektune.recipes.kernels import kernels
from seektune.recipes.machine import disks, machine


def run(*, as_json: bool = False, console: Console | None = None) -> bool:
    """Print the report, as JSON if asked; True when everything the core needs is there in a tested range.

    In JSON every check is `{"found", "note", "fine", "value"}` under its section and name; `fine` on top is
    what is returned.
    """
    console = console or Console()
    sections = {
        "core": core(),
        "machine": machine(),
        "kernels": kernels(),
        "disk": disks(),
        "extras": extras(),
    }
    fine = all(check.fine for check in sections["core"])
    if as_json:
        found = {
            title: {check.name: check.to_json() for check in checks} for title, checks in sections.items()
        }
        console.print_json(data={"fine": fine, **found})
        return fine
    for line, good in page(sections, min(console.width, 100)):
        console.print(line, style=None if good else "red", markup=False, highlight=False, soft_wrap=True)
    wrong = [check.name for check in sections["core"] if not check.fine]
    verdict = f"to mend: {', '.join(wrong)}" if wrong else "everything that training needs is here"
    console.print(verdict, markup=False, highlight=False)
    return fine
