"""`seektune diagnose` on runs with one planted fault each, and on healthy ones."""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broken_runs import CHINESE, EN, classified, configured, mislabelled, trained, write
from rich.console import Console

from seektune.adapters.attach import deltas_of
from seektune.adapters.store import save_adapter
from seektune.diagnosis.cause import Cause
from seektune.errors import ConfigError, TrainingError
from seektune.models.load import Loaded, load_model
from seektune.recipes import diagnose, train
from seektune.recipes.adapted import open_adapted
from seektune.recipes.diagnose import never_began

LLAMA = {"base_model": "tiny/llama", "lora": {"target_modules": ["all-linear"]}}
RATE = {"learning_rate": 5e-3}


def diagnosed(run: Path, **options: Any) -> tuple[tuple[Cause, ...], str]:
    page = io.StringIO()
    return diagnose.run(run, console=Console(file=page, width=200), **options), page.getvalue()


def test_a_folder_that_is_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a run folder"):
        diagnosed(tmp_path)


def test_a_run_without_a_step_says_so() -> None:
    (cause,) = never_began(())
    assert cause.kind == "no_steps"


def leaking(folder: Path) -> Any:
    rows = classified(60)
    held_out = write(folder / "eval.jsonl", rows[:20])
    data = {"eval": {"path": str(held_out)}, "dedup": {"leakage": "report"}}
    return configured(folder, rows, **LLAMA, data=data, training={"max_steps": 8})


def elsewhere(folder: Path) -> Any:
    asked = zip(classified(40, seed=1, words=CHINESE), classified(40, seed=2), strict=True)
    held_out = write(folder / "eval.jsonl", [row | {"text": other["text"]} for other, row in asked])
    data = {"eval": {"path": str(held_out)}}
    return configured(folder, classified(60), **LLAMA, data=data, training={"max_steps": 8})


@pytest.mark.parametrize(("plant", "kind"), [(leaking, "leakage"), (elsewhere, "distribution_mismatch")])
def test_faults_of_the_data_are_named_from_the_folder_alone(
    tmp_path: Path, plant: Callable[[Path], Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(plant(tmp_path))
    monkeypatch.setattr(diagnose, "probed", None)  # no model is loaded
    causes, page = diagnosed(run, probes=False)
    assert [cause.kind for cause in causes if cause.question == "data"] == [kind]
    assert page.startswith("1. ")
    assert kind in json.loads((run / "diagnosis.json").read_text("utf-8"))["causes"][0]["kind"]
    assert causes[0].sentence.split(";")[0] in (run / "report.html").read_text("utf-8").replace("&#39;", "'")


def test_json_is_what_is_written(finished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    _, page = diagnosed(run, probes=False, as_json=True)
    assert json.loads(page) == json.loads((run / "diagnosis.json").read_text("utf-8"))


def test_a_group_that_was_frozen_is_named_in_a_moved_folder(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "moved"
    shutil.copytree(finished, run)
    loaded = open_adapted(str(run))
    for site, delta in deltas_of(loaded, "moved").items():
        if "experts" in site:
            for key, parameter in delta.named_parameters():
                if key.endswith("_B"):
                    parameter.data.zero_()
    shutil.rmtree(run / "adapter")
    save_adapter(loaded, run / "adapter", name="moved")
    before = (finished / "report.html").read_bytes()
    causes, _ = diagnosed(run, budget=0)
    assert (causes[0].kind, causes[0].evidence["groups"]) == ("frozen_group", ["routed"])
    assert (finished / "report.html").read_bytes() == before


def test_a_row_that_breaks_the_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = classified(60)
    rows[29]["text"] = rows[29]["text"].replace("Case", "~")  # no other row has this token

    def damaged(*arguments: Any, **options: Any) -> Loaded:
        loaded = load_model(*arguments, **options)
        (token,) = loaded.tokenizer.encode("~", add_special_tokens=False)
        loaded.model.get_input_embeddings().weight.data[token] = float("nan")
        return loaded

    config = configured(tmp_path, rows, **LLAMA, data={"eval": {}}, training=RATE | {"eval_steps": None})
    monkeypatch.setattr(train, "load_model", damaged)
    with pytest.raises(TrainingError):
        trained(config)
    for options in ({"probes": False}, {"budget": 1.0}):
        causes, page = diagnosed(config.output_dir, **options)
        assert causes[0].kind == "non_finite"
        assert [row["row"].rpartition(":")[2] for row in causes[0].rows] == ["30"]
        assert "rows.jsonl:30" in page


def wrong_labels(folder: Path) -> Any:
    rows = classified(400, words=CHINESE)
    mislabelled(rows, 0.2)
    return configured(folder, rows, **LLAMA, training=RATE)


def rate(times: float) -> Callable[[Path], Any]:
    settings = {"learning_rate": times * RATE["learning_rate"]}
    return lambda folder: configured(folder, classified(320), **LLAMA, training=settings)


def wrong_target(folder: Path) -> Any:
    lora = {"target_modules": ["model.layers.0.self_attn.o_proj"], "r": 2}
    return configured(folder, classified(320), base_model="tiny/llama", lora=lora, training=RATE)


def too_few_epochs(folder: Path) -> Any:
    return configured(folder, classified(400), **LLAMA, training=RATE | {"num_train_epochs": 0.7})


def overfitting(folder: Path) -> Any:
    generator = random.Random(0)

    def words(count: int) -> str:
        return " ".join(generator.choice(EN.split()) for _ in range(count))

    rows = [{"instruction": f"Say {words(3)}", "output": words(5)} for _ in range(40)]
    return configured(folder, rows, **LLAMA, training=RATE | {"num_train_epochs": 60})


FAULTS = {
    "wrong_labels": wrong_labels,
    "learning_rate_too_high": rate(100),
    "learning_rate_too_low": rate(0.01),
    "wrong_targets": wrong_target,
    "too_few_epochs": too_few_epochs,
    "overfitting": overfitting,
}


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "plant"), FAULTS.items(), ids=FAULTS)
def test_a_planted_fault_is_the_first_cause(tmp_path: Path, kind: str, plant: Callable[[Path], Any]) -> None:
    causes, _ = diagnosed(trained(plant(tmp_path)))
    assert causes
    assert causes[0].kind == kind
    assert causes[0].change


@pytest.mark.slow
@pytest.mark.parametrize("words", [None, CHINESE], ids=["english", "chinese"])
def test_a_healthy_run_has_no_cause(tmp_path: Path, words: dict[str, Any] | None) -> None:
    rows = classified(400, **({"words": words} if words else {}))
    causes, page = diagnosed(trained(configured(tmp_path, rows, **LLAMA, training=RATE)))
    assert causes == ()
    assert page.startswith("Healthy")


@pytest.mark.slow
def test_planted_wrong_labels_are_ranked_first(tmp_path: Path) -> None:
    rows = classified(400, words=CHINESE)
    wrong = mislabelled(rows, 0.2)
    (cause, *_), _ = diagnosed(trained(configured(tmp_path, rows, **LLAMA, training=RATE)))
    first = [int(row["row"].rpartition(":")[2]) for row in cause.rows[:40]]
    assert sum(line in wrong for line in first) >= 36  # precision at 40
    assert all(row["given"] != row["preferred"] for row in cause.rows)
