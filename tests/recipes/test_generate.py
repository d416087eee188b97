"""`seektune generate`."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from rich.console import Console

from seektune.recipes import generate


def test_the_printed_answer_is_the_returned_answer(finished: Path) -> None:
    page = io.StringIO()
    answer = generate.run(str(finished), "The eye hurts [1]", max_new_tokens=5, console=Console(file=page))
    assert page.getvalue().rstrip("\n") == answer.rstrip("\n")


def test_a_run_s_prompt_prefix_opens_the_question(finished: Path, tmp_path: Path) -> None:
    prefixed = shutil.copytree(finished, tmp_path / "prefixed")
    config = prefixed / "run.yaml"
    config.write_text(config.read_text().replace("prompt_prefix: ''", "prompt_prefix: 'Case: '"))
    ask = {"max_new_tokens": 8, "console": Console(quiet=True)}
    assert generate.run(str(prefixed), "eye", **ask) == generate.run(str(finished), "Case: eye", **ask)
    assert generate.run(str(prefixed), "eye", **ask) != generate.run(str(finished), "eye", **ask)


def test_an_adapter_changes_the_answer_and_the_base_alone_does_not_know_it(finished: Path) -> None:
    base = generate.run("tiny/deepseek_v3", "The eye hurts", max_new_tokens=8, console=Console(quiet=True))
    tuned = generate.run(
        "tiny/deepseek_v3",
        "The eye hurts",
        adapters=[finished],
        max_new_tokens=8,
        console=Console(quiet=True),
    )
    assert base != tuned
