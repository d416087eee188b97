"""Checkpoints on disk: what is read is what was written, and no changed byte goes unseen."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seektune.errors import TrainingError
from seektune.training import checkpoint
from seektune.training.state import State


def state_of(step: int, size: int = 64) -> State:
    generator = torch.Generator().manual_seed(step)
    tensors = {
        "a.lora_A": torch.randn(4, size, generator=generator),
        "b": torch.randn(3, generator=generator),
    }
    moments = {"a.lora_A.step": torch.tensor(float(step)), "b.exp_avg": torch.rand(3, generator=generator)}
    values = {"step": step, "schedule": {"base_lrs": [0.1 + 0.2]}, "random": list(range(50))}
    return State(tensors, moments, values)


def same(one: State, other: State) -> None:
    torch.testing.assert_close(dict(one.parameters), dict(other.parameters), rtol=0, atol=0)
    torch.testing.assert_close(dict(one.optimizer), dict(other.optimizer), rtol=0, atol=0)
    assert {**one.values, **other.values} == other.values


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    folder = checkpoint.write(state_of(3), tmp_path / "checkpoints", eval_loss=0.5)
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json", "optimizer.safetensors", "parameters.safetensors", "state.json",
    ]  # fmt: skip
    same(state_of(3), checkpoint.read(folder))
    assert checkpoint.values_of(folder)["eval_loss"] == 0.5
    assert checkpoint.damage(folder) is None


def test_writing_a_step_again_replaces_it_and_leaves_nothing_else(tmp_path: Path) -> None:
    folder = checkpoint.write(state_of(3), tmp_path)
    (folder / "parameters.safetensors").write_bytes(b"gone bad")
    checkpoint.write(state_of(3), tmp_path)
    same(state_of(3), checkpoint.read(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["step-3"]


def test_what_killed_processes_left_is_swept_away_and_never_read(tmp_path: Path) -> None:
    folder = checkpoint.write(state_of(3), tmp_path)
    shutil.copytree(folder, tmp_path / ".step-4-new")
    shutil.copytree(folder, tmp_path / ".step-2-old")
    assert checkpoint.folders(tmp_path) == [folder]
    checkpoint.sweep(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-3"]


def test_a_write_that_fails_leaves_the_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoint.write(state_of(3), tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    for step in (3, 4):
        with pytest.raises(OSError, match="No space"):
            checkpoint.write(state_of(step), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-3"]
    same(state_of(3), checkpoint.read(folder))


def test_the_newest_that_verifies_is_taken_and_the_others_are_named(tmp_path: Path) -> None:
    for step in (8, 9, 10, 11):
        checkpoint.write(state_of(step), tmp_path)
    (tmp_path / "step-9" / "manifest.json").unlink()
    (tmp_path / "step-11" / "state.json").write_text("{}")
    cut = tmp_path / "step-10" / "optimizer.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1])
    size = cut.stat().st_size
    state, passed = checkpoint.newest(tmp_path)
    assert state is not None
    same(state_of(8), state)
    assert [line.partition("cannot be resumed from: ")[::2] for line in passed] == [
        (f"{tmp_path / 'step-11'} ", f"state.json has 2 bytes instead of {json_size(tmp_path, 'step-8')}"),
        (f"{tmp_path / 'step-10'} ", f"optimizer.safetensors has {size} bytes instead of {size + 1}"),
        (f"{tmp_path / 'step-9'} ", "manifest.json: No such file or directory"),
    ]


def json_size(root: Path, name: str) -> int:
    return (root / name / "state.json").stat().st_size + 1  # step 11 has one digit more than step 8


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "none") == (None, [])
    (tmp_path / "file").write_text("")
    assert checkpoint.newest(tmp_path / "file") == (None, [])


def test_a_renamed_folder_and_another_format_are_refused(tmp_path: Path) -> None:
    folder = checkpoint.write(state_of(3), tmp_path)
    renamed = folder.rename(tmp_path / "step-5")
    with pytest.raises(TrainingError, match=r"it holds step 3: the folder was renamed"):
        checkpoint.read(renamed)
    later = checkpoint.write(State({}, {}, {"step": 6}), tmp_path)
    values = checkpoint.values_of(later) | {"format": 99}
    (later / "state.json").write_text(json.dumps(values))
    manifest = {
        name: checkpoint._facts(later / name) for name in json.loads((later / "manifest.json").read_text())
    }
    (later / "manifest.json").write_text(checkpoint._canonical(manifest))
    with pytest.raises(TrainingError, match="format 99, this version reads 2"):
        checkpoint.read(later)


def flipped(content: bytes, generator: random.Random) -> bytes:
    """One bit of one byte changed."""
    place = generator.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << generator.randrange(8)]) + content[place + 1 :]


def cut(content: bytes, generator: random.Random) -> bytes:
    return content[: generator.randrange(len(content))]


def grown(content: bytes, generator: random.Random) -> bytes:
    return content + generator.choice([b"\n", b" ", b"\0", content])


def test_every_one_of_600_damages_is_caught(tmp_path: Path) -> None:
    folder = checkpoint.write(state_of(3), tmp_path, eval_loss=0.25)
    generator = random.Random(0)
    files = sorted(folder.iterdir())
    damages: list[Callable[[bytes, random.Random], bytes]] = [flipped, flipped, flipped, cut, grown]
    for _ in range(600):
        path, how = generator.choice(files), generator.choice(damages)
        content = path.read_bytes()
        path.write_bytes(how(content, generator))
        assert checkpoint.damage(folder) is not None, (path.name, how.__name__)
        with pytest.raises(TrainingError):
            checkpoint.read(folder)
        path.write_bytes(content)
        assert checkpoint.damage(folder) is None


@pytest.mark.parametrize(
    "content", ["", "[]", "null", "7", '{"state.json": {}}', "[" * 200_000, '{"parameters.safetensors": 3}']
)
def test_a_manifest_that_is_something_else_is_damage(content: str, tmp_path: Path) -> None:
    folder = checkpoint.write(state_of(3), tmp_path)
    (folder / "manifest.json").write_text(content)
    assert checkpoint.damage(folder) == "manifest.json is damaged"


def test_a_removed_checkpoint_is_gone_at_once(tmp_path: Path) -> None:
    for step in (1, 2):
        checkpoint.write(state_of(step), tmp_path)
    checkpoint.remove(tmp_path / "step-1")
    assert [path.name for path in tmp_path.iterdir()] == ["step-2"]
