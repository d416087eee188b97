"""Real trackers that write, and are read back as their own tools read them."""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest

from seektune.errors import ConfigError
from seektune.training import trackers as module
from seektune.training.finding import Finding
from seektune.training.trackers import check_installed, tracked
from seektune.types import StepMetrics

CONFIGURATION = {"training.learning_rate": 1e-4, "lora.target_modules": ["attention"], "data.x": None}


def step(number: int, applied: bool = True) -> StepMetrics:
    """The second has a finding, the fourth an evaluation."""
    spike = Finding("loss_spike", 2, "warn", {"loss": 9.0}, "a bad row").to_json()
    return StepMetrics(
        step=number,
        epoch=number / 4,
        loss=1 / number,
        learning_rate=1e-4,
        grad_norm=0.5,
        tokens=100,
        seconds=2.0,
        eval_loss=0.25 if number == 4 else None,
        applied=applied,
        findings=(spike,) if number == 2 else (),
    )


def track(folder: Path, *names: str, first: int = 1, last: int = 4) -> None:
    with tracked(names, folder, run_name="medical", configuration=CONFIGURATION) as trackers:
        for number in range(first, last + 1):
            trackers.log(step(number))


def track_twice(folder: Path, name: str) -> None:
    """A run of six steps that was killed after the fourth and goes on from a checkpoint of the second."""
    track(folder, name)
    time.sleep(1)  # wandb and swanlab name their folders by the second
    track(folder, name, first=3, last=6)


def expected(key: str) -> list[tuple[int, float]]:
    return {
        "train/loss": [(number, 1 / number) for number in range(1, 7)],
        "train/tokens_per_second": [(number, 50.0) for number in range(1, 7)],
        "train/epoch": [(number, number / 4) for number in range(1, 7)],
        "eval/loss": [(4, 0.25)],
        "health/loss_spike": [(2, 1.0)],
    }[key]


KEYS = ("train/loss", "train/tokens_per_second", "train/epoch", "eval/loss", "health/loss_spike")


def test_tensorboard_reads_every_step_once_after_a_resume(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track_twice(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for key in KEYS:
        found = [(event.step, event.value) for event in events.Scalars(key)]
        assert found == [(number, pytest.approx(value)) for number, value in expected(key)]
    assert "health/loss_spike/text/text_summary" in events.Tags()["tensors"]
    assert list(tmp_path.glob("tensorboard/*/hparams.yml"))


def test_mlflow_reads_every_step_once_after_a_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    track_twice(tmp_path, "mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    client = mlflow.MlflowClient((tmp_path / "mlflow").as_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'seektune'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("medical", "FINISHED")
    assert run.data.params == {key: str(value) for key, value in CONFIGURATION.items()}
    for key in KEYS:
        history = client.get_metric_history(run.info.run_id, key)
        assert [(point.step, point.value) for point in history] == expected(key)


def test_wandb_offline_reads_every_step_once_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    track_twice(tmp_path, "wandb")
    records = [
        record
        for file in sorted(tmp_path.glob("wandb/offline-*/run-*.wandb"))
        for record in wandb_records(file)
    ]
    assert len({record.run.run_id for record in records if record.HasField("run")}) == 1
    rows = [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    for key in KEYS:
        assert [(row["_step"], row[key]) for row in rows if key in row] == expected(key)


def test_swanlab_offline_reads_every_step_once_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    track_twice(tmp_path, "swanlab")
    records = [
        record for file in sorted(tmp_path.glob("swanlab/*/*.swanlab")) for record in swanlab_records(file)
    ]
    assert len({record.start.id for record in records if record.HasField("start")}) == 1
    scalars = [record.scalar for record in records if record.HasField("scalar")]
    for key in KEYS:
        assert [(point.step, point.value.number) for point in scalars if point.key == key] == expected(key)


def test_trackio_reads_every_step_once_after_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # read when trackio is first imported
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    track_twice(tmp_path, "trackio")
    (run,) = trackio.Api().runs("seektune")
    assert run.name.startswith("medical-")
    logs = SQLiteStorage.get_logs("seektune", run.name, run_id=run.id)
    for key in KEYS:
        assert [(line["step"], line[key]) for line in logs if key in line] == expected(key)


def wandb_records(path: Path) -> list[Any]:
    """wandb's own messages; the frames around them by swanlab's reader of wandb's files."""
    from swanlab.converter.wb.wbdatastore import WBDataStoreReader
    from wandb.proto.wandb_internal_pb2 import Record

    with WBDataStoreReader() as reader:
        reader.open(path)
        return [Record.FromString(data) for data in iter(reader.scan, None)]


def swanlab_records(path: Path) -> list[Any]:
    """The messages as `swanlab sync` reads them."""
    from swanlab.sdk.internal.core_python.store import DataStoreReader
    from swanlab.sdk.internal.core_python.sync import Record

    reader = DataStoreReader()
    reader.open(path)
    try:
        return [Record.FromString(data) for data in reader]
    finally:
        reader.close()


def test_a_tracker_that_cannot_start_is_left_out_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://at-all")
    with caplog.at_level(logging.WARNING, logger=module.__name__):
        track(tmp_path, "mlflow", "tensorboard")
    (warning,) = caplog.messages
    assert warning.startswith("mlflow could not start (")
    assert warning.endswith("; the run goes on without it")
    assert scalars(tmp_path, "train/loss") == [1, 2, 3, 4]


def test_a_tracker_that_fails_on_the_way_is_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        caplog.at_level(logging.WARNING, logger=module.__name__),
        tracked(("tensorboard", "mlflow"), tmp_path, run_name="x", configuration={}) as trackers,
    ):
        trackers.log(step(1))
        (store,) = tmp_path.glob("mlflow/*/*/metrics")
        for path in sorted(store.rglob("*"), reverse=True):
            path.unlink() if path.is_file() else path.rmdir()
        store.rmdir()
        store.write_text("no folder any more")
        trackers.log(step(2))
        trackers.log(step(3))
    (warning,) = caplog.messages
    assert warning.startswith("mlflow could not log (")
    assert mlflow.active_run() is None  # the next run of this process can begin
    assert scalars(tmp_path, "train/loss") == [1, 2, 3]


def test_a_disk_that_takes_nothing_ends_no_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "tracking").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING, logger=module.__name__):
        track(tmp_path / "tracking", "tensorboard")
    (warning,) = caplog.messages
    assert warning.startswith("tensorboard could not start (")


def test_a_step_made_anew_after_a_rollback_is_shown_beside_the_first(tmp_path: Path) -> None:
    track(tmp_path, "tensorboard")
    with tracked(("tensorboard",), tmp_path, run_name="x", configuration={}) as trackers:
        for number in (4, 5, 3, 4):
            trackers.log(step(number))
    assert sorted(scalars(tmp_path, "train/loss", every=True)) == [1, 2, 3, 3, 4, 4, 5]


def test_a_step_that_was_not_applied_is_tracked_again_when_it_is(tmp_path: Path) -> None:
    for applied in (False, True):  # the process ends between the two
        with tracked(("tensorboard",), tmp_path, run_name="x", configuration={}) as trackers:
            trackers.log(step(1, applied=applied))
    assert scalars(tmp_path, "train/loss", every=True) == [1, 1]


def scalars(folder: Path, key: str, every: bool = False) -> list[int]:
    """Steps at which tensorboard has a value; `every` keeps those that it would hide after a restart."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=not every)
    events.Reload()
    return [event.step for event in events.Scalars(key)]


def test_the_environment_is_as_before(tmp_path: Path) -> None:
    before = dict(os.environ)
    track(tmp_path, "mlflow")
    assert dict(os.environ) == before


def test_processes_other_than_the_first_track_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "world", lambda: (1, 2))
    track(tmp_path, "tensorboard")
    assert not list(tmp_path.iterdir())


def test_a_tracker_that_is_not_installed_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_installed(("tensorboard", "mlflow"))
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "wandb" else object())
    with pytest.raises(
        ConfigError, match=r"training\.report_to: not installed: wandb; pip install 'seektune\[track\]'"
    ):
        check_installed(("wandb", "tensorboard"))
