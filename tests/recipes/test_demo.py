"""The demo from question to report: on tiny models here, on the real one when there are minutes to spend."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from seektune.config.run import load_config
from seektune.errors import ConfigError
from seektune.quickstart import medical
from seektune.quickstart.medical import Question
from seektune.recipes import demo, evaluate

WORDS = {"tooth": "Dental", "drug": "Pharmacology", "knife": "Surgery"}


@pytest.fixture(scope="module")
def small_demo(tmp_path_factory: pytest.TempPathFactory):
    """Folder and printed text of `demo --model both`, two steps each on tiny models and made-up questions."""
    folder, page = tmp_path_factory.mktemp("demo"), io.StringIO()
    rows = [Question(f"Case {n}: a {word}?", label) for n in range(20) for word, label in WORDS.items()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(medical, "wheel_questions", lambda: rows)
        patch.setattr(demo, "base_folder", {"moe": "tiny/deepseek_v3", "dense": "tiny/llama"}.__getitem__)
        patch.setattr(demo, "is_built", lambda base: False)
        console = Console(file=page, width=140)
        demo.run("both", folder, train_rows=40, held_out_rows=20, max_steps=2, console=console)
    return folder, page.getvalue()


def test_it_leaves_a_run_folder_for_each_model_and_what_joins_them(small_demo) -> None:
    folder, _ = small_demo
    for base in ("moe", "dense"):
        names = {path.name for path in (folder / base).iterdir()}
        assert names >= {
            "run.yaml", "environment.json", "inventory.json", "metrics.jsonl", "adapter", "evaluation.json",
            "report.html",
        }  # fmt: skip
    joined = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    lists = [json.loads((folder / base / "evaluation.json").read_text()) for base in ("moe", "dense")]
    assert joined == lists[0] + lists[1]
    assert [(entry["task"], entry["n"]) for entry in joined] == [("medical-specialty", 20)] * 2
    assert (joined[0]["router_unchanged"], joined[1]["router_unchanged"]) == (True, None)
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("Accuracy on 20 held-out rows") == 2


def test_it_shows_every_stage(small_demo) -> None:
    _, printed = small_demo
    for expected in (
        *("questions in the wheel", "building the base model", "40 rows to train on, 20 held out"),
        *(
            "routed",
            "step 2/2",
            "tokens/s",
            "majority class",
            "base, calibrated",
            "TF-IDF",
            "with the adapter",
        ),
        *("CPU-minutes", "report.html"),
    ):
        assert expected in printed
    assert demo.NEW_QUESTIONS[0][:20] in printed


def test_the_router_and_the_up_projection_of_the_latent_are_left_alone(small_demo) -> None:
    folder, _ = small_demo
    rows = json.loads((folder / "moe" / "inventory.json").read_text())["rows"]
    matched = {row["group"]: (row["matched"], row["existing"]) for row in rows}
    assert matched["attention"][0] < matched["attention"][1]
    assert all(found == existing for group, (found, existing) in matched.items() if group != "attention")
    assert set(matched) == {"attention", "dense", "shared", "routed"}


def test_its_configuration_is_one_that_train_and_evaluate_read(small_demo) -> None:
    folder, _ = small_demo
    config = load_config(folder / "moe" / "run.yaml")
    assert config.data.train[0].path == str(folder / "data" / "train.jsonl")
    before = json.loads((folder / "moe" / "evaluation.json").read_text())[0]
    found = evaluate.run(folder / "moe", console=Console(file=io.StringIO()))
    assert found is not None
    assert found.tuned.accuracy == before["tuned"]["accuracy"]


def test_an_unknown_model_is_an_error_that_names_the_choices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mixtral is not known; choose one of moe, dense, both"):
        demo.run("mixtral", tmp_path)


@pytest.mark.slow
def test_the_new_questions_are_new() -> None:
    known = {medical.normalised(question.text) for question in medical.wheel_questions()}
    assert not known & {medical.normalised(question) for question in demo.NEW_QUESTIONS}


@pytest.mark.slow
def test_the_real_demo_runs_on_a_small_budget(tmp_path: Path) -> None:
    page = io.StringIO()
    folder = demo.run(
        "moe", tmp_path, train_rows=200, held_out_rows=80, max_steps=3, console=Console(file=page, width=140)
    )
    (found,) = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    assert found["n"] == 80
    assert found["router_unchanged"] is True
    assert found["base_calibrated"]["accuracy"] > 0.2  # eight classes: the base knows something
