"""One process and two: what they agree on, and what they make of one that is gone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch.distributed as dist
from processes import run_script

from seektune.errors import ConfigError, TrainingError
from seektune.training.world import first_alone, highest, leave, lost_processes_named, world


def test_a_process_on_its_own_is_rank_zero_of_one_and_decides_alone() -> None:
    assert world() == (0, 1)
    assert first_alone(lambda: "done") == "done"
    assert highest(3, -1) == (3, -1)
    leave()
    with pytest.raises(ConfigError, match="mine") as caught:
        first_alone(lambda: refuse(ConfigError("mine")))
    assert not caught.value.reported


def refuse(error: Exception) -> None:
    raise error


def test_a_launch_that_would_do_something_else_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(TrainingError, match="silently train with DDP"):
        world()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer"),
        RuntimeError("Timed out waiting 600000ms for recv operation to complete"),
        dist.DistBackendError("NCCL communicator was aborted"),
    ],
)
def test_a_lost_connection_becomes_an_error_that_says_so(error: RuntimeError) -> None:
    with pytest.raises(TrainingError, match="another process of this run has ended"), lost_processes_named():
        raise error


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shape"), lost_processes_named():
        raise RuntimeError("shape mismatch")


WORKER = """
import json, os, signal, sys, time
from pathlib import Path
from seektune.errors import ConfigError, TrainingError
from seektune.training.world import first_alone, highest, leave, lost_processes_named, world

rank, size = world()
assert size == 2
calls = []
assert first_alone(lambda: calls.append(rank) or {"from": rank}) == {"from": 0}
assert calls == [0] * (rank == 0)
assert highest(rank, 5 - rank) == (1, 5)

def refuse(error):
    raise error

for error, kind, text in (
    (ConfigError("a key"), ConfigError, "a key"),
    (KeyError("x"), TrainingError, "the first process ended: KeyError('x')"),
    (SystemExit(143), SystemExit, "143"),
):
    try:
        first_alone(lambda: refuse(error))
    except BaseException as caught:
        assert rank == 0 or (type(caught) is kind and str(caught) == text), caught
        assert rank == 0 or kind is SystemExit or caught.reported
        assert rank == 1 or caught is error
    else:
        raise AssertionError("it went on")

# The first one takes its time, then ends without a word.
started = time.monotonic()
try:
    with lost_processes_named():
        first_alone(lambda: time.sleep(1) or os._exit(0))
except TrainingError as error:
    assert rank == 1 and "another process of this run has ended" in str(error)
    assert 0.9 < time.monotonic() - started < 30
    Path(sys.argv[1], "out.json").write_text(json.dumps({"rank": rank}))
"""


@pytest.mark.slow
def test_two_processes_go_the_same_way_until_one_is_gone(tmp_path: Path) -> None:
    run_script(tmp_path, WORKER, str(tmp_path))
    assert json.loads((tmp_path / "out.json").read_text()) == {"rank": 1}
