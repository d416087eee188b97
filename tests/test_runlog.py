from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.errors import TrainingError
from seektune.runlog import Log, append, cut, read, read_json, write_json
from seektune.types import StepMetrics

FLOAT = st.floats(allow_nan=False, allow_infinity=False)
STEPS = st.builds(
    StepMetrics,
    step=st.integers(0),
    epoch=FLOAT,
    loss=FLOAT,
    learning_rate=FLOAT,
    grad_norm=FLOAT,
    tokens=st.integers(0),
    seconds=st.floats(1e-3, 1e6),
    eval_loss=st.none() | FLOAT,
    applied=st.booleans(),
    loss_scale=st.none() | FLOAT,
    findings=st.sampled_from([(), ({"kind": "loss_spike", "action": "warn"},)]),
)
STEP = StepMetrics(1, 0.5, 2.25, 1e-4, 0.75, 100, 0.5, eval_loss=2.0)


@given(steps=st.lists(STEPS, max_size=5))
def test_what_is_appended_is_read_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, steps: list[StepMetrics]
) -> None:
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    path.touch()
    for step in steps:
        append(path, step)
    assert read(path) == tuple(steps)


def test_one_line_is_one_step_with_its_speed(tmp_path: Path) -> None:
    append(tmp_path / "metrics.jsonl", STEP)
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line) == {
        "step": 1, "epoch": 0.5, "loss": 2.25, "learning_rate": 1e-4, "grad_norm": 0.75, "tokens": 100,
        "seconds": 0.5, "eval_loss": 2.0, "applied": True, "loss_scale": None, "findings": [],
        "tokens_per_second": 200.0,
    }  # fmt: skip


def test_a_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, STEP)
    whole = path.read_text()
    for length in range(1, len(whole)):
        path.write_text(whole + whole[:length])
        assert read(path) == (STEP,)


@pytest.mark.parametrize("line", ["{", "[1]", '{"step": 1}', "null", '{"tokens_per_second": 1, "steps": 1}'])
def test_any_other_line_is_named_with_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, STEP)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(TrainingError, match=r"metrics\.jsonl:2 is not a training step"):
        read(path)


def test_a_json_file_is_replaced_whole_and_survives_a_value_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "inventory.json"
    write_json(path, {"组": [1, 2]})
    assert json.loads(path.read_text(encoding="utf-8")) == {"组": [1, 2]}
    with pytest.raises(TypeError):
        write_json(path, {"组": object()})
    assert json.loads(path.read_text(encoding="utf-8")) == {"组": [1, 2]}


def test_a_log_is_cut_back_to_a_step_and_its_other_lines_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    cut(path, 3)
    assert not path.exists()
    for step in range(1, 6):
        append(path, replace(STEP, step=step))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines) + lines[0][:9])
    cut(path, 5)
    assert path.read_text() == "".join(lines)
    cut(path, 3)
    assert path.read_text() == "".join(lines[:3])
    path.write_text("{}\n")
    with pytest.raises(TrainingError, match=r"metrics\.jsonl:1 is not a training step"):
        cut(path, 3)


def test_a_log_is_cut_back_to_where_a_step_was_applied_for_the_last_time(tmp_path: Path) -> None:
    """Steps 4 and 5 were undone: the run had gone back to 3, and 5 was left out once before."""
    path = tmp_path / "metrics.jsonl"
    numbers = [1, 2, 3, 4, 5, 6, 4, 5, 5, 6]
    applied = [True, True, True, True, True, False, True, False, True, True]
    for step, was_applied in zip(numbers, applied, strict=True):
        append(path, replace(STEP, step=step, applied=was_applied))
    lines = path.read_text().splitlines(keepends=True)
    for step, left in ((6, 10), (5, 9), (4, 7), (3, 3)):
        path.write_text("".join(lines))
        cut(path, step)
        assert path.read_text() == "".join(lines[:left])


def test_a_log_of_an_older_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append(path, STEP)
    fields = json.loads(path.read_text())
    for name in ("applied", "loss_scale", "findings"):
        del fields[name]
    path.write_text(json.dumps(fields) + "\n")
    assert read(path) == (STEP,)


def test_a_full_disk_stops_no_run_and_its_steps_are_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.symlink_to("/dev/full")
    log = Log(path)
    for step in (1, 2):
        log.append(replace(STEP, step=step))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("step 1 is not logged yet:")
    assert "No space left on device" in line
    assert log.failure is not None
    assert log.failure.startswith("2 steps could not be logged")
    path.unlink()
    log.append(replace(STEP, step=3))
    assert [metrics.step for metrics in read(path)] == [1, 2, 3]
    assert log.failure is None


LIMITED = """
import resource, sys
from seektune.runlog import append
from seektune.types import StepMetrics
resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
for step in range(1, 9):
    try:
        append(sys.argv[1], StepMetrics(step, 0.5, 2.0, 1e-4, 1.0, 100, 0.5))
    except OSError:
        print(step)
        break
"""


def test_a_line_that_finds_no_room_leaves_no_part_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True
    )
    assert path.read_text().endswith("\n")
    assert [metrics.step for metrics in read(path)] == list(range(1, int(done.stdout)))


def test_json_is_read_as_it_was_written_and_none_where_there_is_none(tmp_path: Path) -> None:
    write_json(tmp_path / "one.json", {"表": [1, None]})
    assert read_json(tmp_path / "one.json") == {"表": [1, None]}
    assert read_json(tmp_path / "other.json") is None
