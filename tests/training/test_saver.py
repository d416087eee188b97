"""Saving while training goes on: what is kept, and what a disk that fails costs."""

from __future__ import annotations

import logging
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from seektune.training import checkpoint
from seektune.training.saver import Saver
from seektune.training.state import State


def state_of(step: int) -> State:
    return State({"a": torch.full((4,), float(step))}, {}, {"step": step})


def kept(root: Path) -> list[int]:
    return [checkpoint.step_of(folder) for folder in checkpoint.folders(root)]


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    losses = {1: 0.9, 2: 0.3, 3: None, 4: 0.5, 5: None, 6: 0.3}
    with Saver(tmp_path, keep=2) as saver:
        for step, loss in losses.items():
            saver.save(state_of(step), eval_loss=loss)
    assert kept(tmp_path) == [2, 5, 6]


def test_without_evaluations_only_the_newest_are_kept(tmp_path: Path) -> None:
    with Saver(tmp_path, keep=1) as saver:
        for step in range(1, 5):
            saver.save(state_of(step))
            saver.settle()
            assert kept(tmp_path) == [step]


def test_a_state_that_is_not_finite_never_becomes_the_newest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = State({"a": torch.tensor([1.0, float("nan")])}, {}, {"step": 2})
    with Saver(tmp_path, keep=1) as saver:
        saver.save(state_of(1))
        saver.save(broken)
    assert kept(tmp_path) == [1]
    assert saver.failure is None
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "step 2: the adapter is not finite, so no checkpoint is written"


def test_the_best_is_remembered_by_the_next_process(tmp_path: Path) -> None:
    with Saver(tmp_path, keep=1) as saver:
        saver.save(state_of(1), eval_loss=0.4)
        saver.save(state_of(2), eval_loss=0.6)
    with Saver(tmp_path, keep=1) as saver:
        assert [saver.is_best(loss) for loss in (0.4, 0.39, None)] == [False, True, False]
        saver.save(state_of(3), eval_loss=0.5)
    assert kept(tmp_path) == [1, 3]


def test_what_was_passed_over_on_resuming_is_replaced_when_its_step_comes(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        checkpoint.write(state_of(step), tmp_path, eval_loss=1 / step)
    for step in (4, 6):
        (tmp_path / f"step-{step}" / "state.json").write_text("{}")
    with Saver(tmp_path, keep=1) as saver:
        assert saver.is_best(0.3)  # a damaged one is nobody's best
        saver.save(state_of(4))
        saver.settle()
        assert kept(tmp_path) == [2, 4, 6]
        saver.save(state_of(6))
    assert kept(tmp_path) == [2, 6]
    assert checkpoint.damage(tmp_path / "step-6") is None


def test_saving_does_not_wait_for_the_disk_but_for_the_save_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, order = threading.Event(), []

    def slow(state: State, root: Path, *, eval_loss: float | None) -> None:
        may_write.wait()
        order.append(state.step)
        root.joinpath(f"step-{state.step}").mkdir()

    monkeypatch.setattr(checkpoint, "write", slow)
    with Saver(tmp_path, keep=9) as saver:
        saver.save(state_of(1))
        saver.poll()  # not done: nothing to say
        assert order == []
        threading.Timer(0.05, may_write.set).start()
        saver.save(state_of(2))
        assert order[0] == 1
    assert order == [1, 2]


def test_a_folder_that_cannot_be_made_is_one_warning_and_a_failure_to_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "checkpoints").write_text("a file is in the way")
    with Saver(tmp_path / "checkpoints", keep=2) as saver:
        for step in (1, 2):
            saver.save(state_of(step))
            saver.settle()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("step 1: no checkpoint could be written to")
    assert line.endswith("there is none yet, and the run goes on")
    assert saver.failure is not None


def test_a_disk_that_has_room_again_ends_the_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "checkpoints"
    with Saver(root, keep=2) as saver:
        saver.save(state_of(1))
        saver.settle()
        root.rename(tmp_path / "away")
        root.write_text("in the way")
        saver.save(state_of(2))
        saver.settle()
        assert saver.failure is not None
        root.unlink()
        (tmp_path / "away").rename(root)
        saver.save(state_of(3))
        saver.settle()
        assert saver.failure is None
    assert kept(root) == [1, 3]


FULL = """
import logging, resource, sys
from pathlib import Path
import torch
from seektune.training.saver import Saver
from seektune.training.state import State

logging.basicConfig(format="%(message)s", stream=sys.stdout)
def state(step, size):
    return State({"a": torch.zeros(size)}, {}, {"step": step})

with Saver(Path(sys.argv[1]), keep=2) as saver:
    saver.save(state(1, 10))
    saver.settle()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    saver.save(state(2, 1_000_000))
print("failure:", saver.failure)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no limit to set")
def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300
    )
    warning, failure = done.stdout.splitlines()
    assert "File too large" in warning
    assert "the last good one is step-1, and the run goes on" in warning
    assert failure.endswith("the last good one is step-1")
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert checkpoint.damage(tmp_path / "step-1") is None


def test_an_error_that_is_not_the_disks_surfaces_at_the_next_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), Saver(tmp_path, keep=2) as saver:
        saver.save(State({}, {}, {"step": 1, "not json": object()}))
        while saver._pending is not None and not saver._pending[1].done():
            pass
        with pytest.raises(TypeError, match="not JSON serializable"):
            saver.poll()
    assert not caplog.records
