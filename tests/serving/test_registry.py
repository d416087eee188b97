"""The registry: what is served after every change, to whom, and what hostile folders get."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from safetensors.torch import load_file, save_file

from seektune.adapters.folder import CONFIG, MANIFEST, WEIGHTS
from seektune.adapters.slots import Slots
from seektune.errors import AdapterError
from seektune.models.load import Loaded
from seektune.serving.published import read_published
from seektune.serving.registry import Command, Publish, Registry, Retire


@pytest.fixture
def registry(engine, root) -> Registry:
    return Registry(
        engine.slots,
        root,
        engine.queue.append,
        state=root / ".state.json",
        reserved=["base"],
        drain_seconds=0.0,
    )


def key_of(registry: Registry, model: str) -> str:
    with registry.serving(model) as key:
        return key


def restarted(registry: Registry, engine, root: Path) -> Registry:
    """The registry of a new process: empty slots, the same files."""
    for key in engine.slots.keys:
        engine.slots.retire(key)
    again = Registry(engine.slots, root, engine.queue.append, state=root / ".state.json")
    again.restore()
    engine.step()
    return again


def test_a_load_is_served_by_name_and_by_version(registry, engine, put):
    put("a/1", 0)
    version = registry.load("a")
    assert [type(command) for command in engine.queue] == [Publish]
    assert key_of(registry, "a") == key_of(registry, version.key) == version.key
    engine.step()
    assert engine.slots.keys == (version.key,)
    assert registry.published.versions == {version.key: version}


def test_requests_under_way_finish_on_the_version_they_began_with(registry, engine, put):
    put("a/1", 0)
    old = registry.load("a").key
    engine.step()
    with registry.serving("a") as key:
        engine.slots.acquire(key)
    put("a/2", 1)
    new = registry.load("a").key
    engine.step()
    assert key_of(registry, "a") == new != old
    assert engine.slots.slot_of(old) != engine.slots.slot_of(new)
    with pytest.raises(AdapterError, match="not served"):
        key_of(registry, old)
    engine.slots.release(old)
    assert engine.slots.keys == (new,)
    assert engine.slots.taken == 1


def test_what_is_queued_while_a_name_is_served_comes_before_its_retirement(registry, engine, put):
    put("a/1", 0)
    registry.load("a")
    put("a/2", 1)
    with registry.serving("a") as key:
        swap = threading.Thread(target=registry.load, args=("a",))
        swap.start()
        swap.join(0.3)
        assert key == key_of_queue(engine)
        engine.queue.append("the request")
    swap.join(60)
    kinds = [command if isinstance(command, str) else type(command) for command in engine.queue]
    assert kinds == [Publish, "the request", Publish, Retire]


def key_of_queue(engine) -> str:
    (command,) = engine.queue
    return command.staged.key


def test_the_same_content_again_changes_nothing(registry, engine, put):
    put("a/1", 0)
    first = registry.load("a")
    engine.step()
    put("a/2", 0)
    assert registry.load("a").key == first.key
    assert not engine.queue
    assert engine.slots.taken == 1


def test_a_version_may_be_named(registry, put):
    put("a/1", 0)
    put("a/2", 1)
    old, new = registry.load("a", "1"), registry.load("a")
    assert old.key != new.key
    assert registry.load("a", "1") == old
    assert key_of(registry, "a") == old.key


def test_an_alias_keeps_its_version_and_moves_in_one_move(registry, engine, put):
    put("a/1", 0)
    old = registry.load("a").key
    assert registry.alias("stable", "a") == old
    put("a/2", 1)
    new = registry.load("a").key
    engine.step()
    assert (key_of(registry, "stable"), key_of(registry, "a")) == (old, new)
    assert set(engine.slots.keys) == {old, new}
    registry.alias("stable", "a")
    assert key_of(registry, "stable") == new
    engine.step()
    assert engine.slots.keys == (new,)
    registry.unalias("stable")
    assert key_of(registry, "a") == new


@pytest.mark.parametrize("alias", ["a", "base", "", "../x", "a@1"])
def test_an_alias_that_would_hide_something_or_is_no_name_is_refused(alias, registry, put):
    put("a", 0)
    registry.load("a")
    with pytest.raises(AdapterError):
        registry.alias(alias, "a")


def test_names_that_mean_something_else_are_refused(registry, put):
    put("a", 0)
    put("base", 1)
    put("x", 1)
    registry.load("a")
    registry.alias("x", "a")
    for name in ("base", "x"):
        with pytest.raises(AdapterError, match="is an alias or the base"):
            registry.load(name)
    for wrong in (
        lambda: registry.alias("y", "nothing"),
        lambda: registry.unalias("a"),
        lambda: registry.unload("x"),
    ):
        with pytest.raises(AdapterError):
            wrong()


def test_unloading_drains(registry, engine, put):
    put("a", 0)
    key = registry.load("a").key
    engine.step()
    engine.slots.acquire(key)
    registry.unload("a")
    engine.step()
    with pytest.raises(AdapterError, match="it was unloaded"):
        key_of(registry, "a")
    assert engine.slots.slot_of(key) == 0
    engine.slots.release(key)
    assert engine.slots.taken == 0


def test_what_an_alias_means_is_not_unloaded(registry, put):
    put("a", 0)
    registry.load("a")
    registry.alias("x", "a")
    with pytest.raises(AdapterError, match="has aliases: move or remove x first"):
        registry.unload("a")


def at_once(slots: Slots) -> Callable[[Command], None]:
    """An engine that is between two steps at all times."""
    return lambda command: (
        slots.publish(command.staged) and None if isinstance(command, Publish) else slots.retire(command.key)
    )


@pytest.fixture
def full(engine, root, put) -> Registry:
    """Names a, b and c in three slots; c was asked for last, a before it, b longest ago."""
    registry = Registry(
        engine.slots, root, at_once(engine.slots), state=root / ".state.json", drain_seconds=0.0
    )
    for content, name in enumerate("abc"):
        put(name, content)
        registry.load(name)
    for name in "bac":
        key_of(registry, name)
    return registry


def test_the_adapter_asked_for_longest_ago_makes_room(full, engine, put):
    put("d", 3)
    full.load("d")
    assert set(full.published.names) == {"a", "c", "d"}
    with pytest.raises(AdapterError, match=r"evicted to make room for d@.*: load it again"):
        key_of(full, "b")
    full.load("b")
    assert set(full.published.names) == {"b", "a", "c"}  # d was never asked for
    assert set(engine.slots.keys) == set(full.published.versions)


def test_another_adapter_makes_room_before_the_version_that_is_replaced(full, put):
    put("b/2", 3)
    full.load("b", "2")
    assert set(full.published.names) == {"b", "c"}


def test_what_requests_or_aliases_hold_is_not_evicted(full, engine, put):
    put("d", 3)
    for name in "bc":
        engine.slots.acquire(key_of(full, name))
    full.alias("x", "a")
    before = full.published
    with pytest.raises(AdapterError, match=r"no room for d@.*: requests or aliases hold"):
        full.load("d")
    assert full.published is before
    assert set(engine.slots.keys) == set(before.versions)


def test_room_that_is_on_its_way_is_waited_for_and_nothing_is_evicted(full, engine, put):
    put("d", 3)
    key = key_of(full, "a")
    engine.slots.acquire(key)
    full.unload("a")
    before = full.published
    with pytest.raises(AdapterError, match="all 3 slots are taken"):
        full.load("d")
    assert full.published is before
    engine.slots.release(key)
    full.load("d")
    assert set(full.published.names) == {"b", "c", "d"}


def test_memory_is_a_bound_too(base, root, put, engine):
    engine.slots.close()
    put("a", 0)
    probe = Slots(base)
    size = probe.check(root / "a", "a").bytes
    probe.close()
    slots = Slots(base, max_slots=9, max_bytes=2 * size)
    registry = Registry(slots, root, at_once(slots), state=root / ".state.json", drain_seconds=0.0)
    for content, name in enumerate("abc"):
        put(name, content)
        registry.load(name)
    assert set(registry.published.names) == {"b", "c"}
    assert slots.used_bytes == 2 * size
    slots.close()


def test_a_state_that_cannot_be_written_changes_nothing(registry, engine, put, root):
    put("a/1", 0)
    registry.load("a")
    engine.step()
    before = registry.published
    (root / ".state.json").unlink()
    (root / ".state.json").mkdir()
    put("a/2", 1)
    with pytest.raises(AdapterError, match="nothing is changed"):
        registry.load("a")
    assert registry.published is before
    assert not engine.queue
    assert engine.slots.taken == 1


def test_a_restart_serves_what_was_published(registry, engine, put, root):
    put("a/1", 0)
    registry.load("a")
    registry.alias("x", "a")
    put("a/2", 1)
    put("b", 2)
    registry.load("a")
    registry.load("b")
    engine.step()
    again = restarted(registry, engine, root)
    assert again.published == registry.published
    assert set(engine.slots.keys) == set(registry.published.versions)
    assert key_of(again, "x") == key_of(registry, "x")


def test_a_restart_says_what_did_not_come_back(registry, engine, put, root):
    for content, name in enumerate("abc"):
        put(name, content)
        registry.load(name)
    registry.alias("x", "a")
    engine.step()
    put("a", 3)
    shutil.rmtree(root / "b")
    again = restarted(registry, engine, root)
    assert set(again.published.names) == {"c"}
    for model, reason in (("a", "no longer holds"), ("b", "is not a folder"), ("x", "did not come back")):
        with pytest.raises(AdapterError, match=reason):
            key_of(again, model)


def looks(registry: Registry, count: int = 2) -> list[str]:
    return [line for _ in range(count) for line in registry.poll()]


def test_the_watcher_loads_what_is_new_and_unloads_what_is_gone(registry, engine, put, root):
    put("a/1", 0)
    (root / "notes.txt").touch()
    assert registry.poll() == []  # a copy may be under way
    assert [line.split("@")[0] for line in registry.poll()] == ["loaded a"]
    old = key_of(registry, "a")
    assert looks(registry) == []
    put("a/2", 1)
    put("b", 2)
    assert len(looks(registry)) == 2
    assert key_of(registry, "a") != old
    shutil.rmtree(root / "b")
    assert looks(registry) == [f"unloaded b, which is gone from {root}"]
    assert set(registry.published.names) == {"a"}
    engine.step()


def test_the_watcher_tries_a_refused_folder_again_when_it_has_changed(registry, put, root):
    folder = put("a", 0)
    good = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(good[:-10])
    (line,) = looks(registry)
    assert "truncated" in line
    with pytest.raises(AdapterError, match=r"its newest form was refused: .* truncated"):
        key_of(registry, "a")
    assert looks(registry, 3) == []
    (folder / WEIGHTS).write_bytes(good)
    assert looks(registry)[0].startswith("loaded a@")
    assert registry.reasons == {}


def test_the_watcher_leaves_alone_what_was_unloaded_by_hand(registry, put):
    put("a", 0)
    looks(registry)
    registry.unload("a")
    assert looks(registry, 3) == []
    assert "a" not in registry.published.names


def test_the_watcher_keeps_what_an_alias_means(registry, put, root):
    put("a", 0)
    looks(registry)
    registry.alias("x", "a")
    shutil.rmtree(root / "a")
    (line,) = looks(registry)
    assert "but stays: a has aliases" in line
    assert key_of(registry, "x")


def test_the_watcher_says_why_a_link_out_is_not_loaded(registry, root, tmp_path):
    (tmp_path / "outside").mkdir()
    (root / "a").symlink_to(tmp_path / "outside")
    (line,) = looks(registry)
    assert "leads outside" in line


def _json(folder: Path, name: str, **changes: object) -> None:
    content = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps(content))


def _tensors(folder: Path, change) -> None:
    save_file({key: change(tensor) for key, tensor in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    (folder / MANIFEST).unlink()


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({"x": 1}))


HOSTILE = {
    "pickle": (_pickled, "a pickle"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "no adapter folder"),
    "another base": (
        lambda f: _json(f, MANIFEST, base={"identity": "0" * 64, "source": "other"}),
        "was trained on the base other",
    ),
    "changed since": (lambda f: _json(f, CONFIG, lora_alpha=99), "content hash differs"),
    "not finite": (lambda f: _tensors(f, lambda t: t.fill_(torch.nan)), "not finite"),
    "integers": (lambda f: _tensors(f, lambda t: t.to(torch.int64)), "no float"),
    "shapes": (lambda f: _tensors(f, lambda t: t[:, 1:].contiguous()), "shape: "),
    "giant rank": (
        lambda f: ((f / MANIFEST).unlink(), _json(f, CONFIG, r=10**9)),
        "above the largest allowed, 4",
    ),
    "deep config": (lambda f: (f / CONFIG).write_text('{"r":' * 100_000), "cannot read"),
    "deep manifest": (lambda f: (f / MANIFEST).write_text("[" * 100_000), "cannot read"),
    "huge header": (lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 2**62)), "its header claims"),
    "truncated": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-1]), "truncated"),
    "endless pattern": (
        lambda f: ((f / MANIFEST).unlink(), _json(f, CONFIG, target_modules="(.*)*x")),
        "too long",
    ),
    "other method": (lambda f: _json(f, CONFIG, use_dora=True), "no plain LoRA"),
    "pipe": (lambda f: ((f / CONFIG).unlink(), os.mkfifo(f / CONFIG)), "no regular file"),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_folders_are_refused_with_a_reason_and_change_nothing(attack, registry, engine, put, root):
    put("a/1", 0)
    good = registry.load("a").key
    engine.step()
    spoil, reason = HOSTILE[attack]
    spoil(put("a/2", 1))
    before, state = registry.published, (root / ".state.json").read_bytes()
    with pytest.raises(AdapterError, match=reason):
        registry.load("a")
    assert registry.published is before
    assert (root / ".state.json").read_bytes() == state
    assert not engine.queue
    assert engine.slots.taken == 1
    assert key_of(registry, "a") == good


NAMES = [
    "../outside",
    "..",
    "/etc/passwd",
    "a/../../outside",
    "link",
    "a\x00",
    "x" * 5000,
    "%2e%2e",
    "a/link",
    ".",
    "~",
]

SPY = """
import json, pathlib, sys
root, outside = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
from seektune.adapters.slots import Slots
from seektune.errors import AdapterError
from seektune.models.load import load_model
from seektune.serving.registry import Registry
slots = Slots(load_model("tiny/llama"), max_rank=4)
registry = Registry(slots, root, lambda command: None, state=root / ".state.json")
registry.load("good")
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
refused = 0
for name in json.loads(sys.argv[3]):
    for attempt in (lambda: registry.load(name), lambda: registry.load("good", name)):
        try:
            attempt()
        except AdapterError:
            refused += 1
registry.poll(), registry.poll()
registry.load("good")
assert any(path.startswith(str(root)) for path in opened), "the hook works"
print(refused, [path for path in opened if not path.startswith(str(root) + "/")])
"""


def test_no_file_outside_the_root_is_ever_opened(root, put, tmp_path):
    put("good/1", 0)
    put("stolen/1", 1)
    shutil.move(root / "stolen" / "1", tmp_path / "outside")
    shutil.rmtree(root / "stolen")
    (root / "link").symlink_to(tmp_path / "outside")
    (root / "good" / "link").symlink_to(tmp_path / "outside")
    for name in (WEIGHTS, CONFIG, MANIFEST):
        folder = put(f"file-{name}", 2)
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / "outside" / name)
    names = [*NAMES, *(f"file-{name}" for name in (WEIGHTS, CONFIG, MANIFEST))]
    arguments = [sys.executable, "-c", SPY, str(root), str(tmp_path / "outside"), json.dumps(names)]
    spied = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert spied.stdout.strip() == f"{2 * len(names)} []"


SWAPPER = """
import sys
from seektune.adapters.slots import Slots
from seektune.models.load import load_model
from seektune.serving.registry import Publish, Registry
slots = Slots(load_model("tiny/llama"), max_slots=3, max_rank=4)
def engine(command):
    slots.publish(command.staged) if isinstance(command, Publish) else slots.retire(command.key)
registry = Registry(slots, sys.argv[1], engine, state=sys.argv[2])
while True:
    for version in "12":
        print(registry.load("a", version).key, flush=True)
        registry.alias("x", "a")
"""


def test_a_killed_swap_leaves_the_last_published_state(engine, put, root):
    put("a/1", 0)
    put("a/2", 1)
    state = root / ".state.json"
    process = subprocess.Popen(
        [sys.executable, "-c", SWAPPER, str(root), str(state)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    keys = [process.stdout.readline().strip() for _ in range(7)]
    process.send_signal(signal.SIGKILL)
    keys += [line.strip() for line in process.stdout.read().splitlines()]
    process.wait()
    process.stdout.close()
    known = set(keys)
    assert len(known) == 2
    kept = read_published(state)
    # The file is written before a version is served, so it is at most one change ahead of what was printed.
    assert kept.names["a"] in known
    assert kept.aliases["x"] in known
    registry = restarted(Registry(engine.slots, root, engine.queue.append, state=state), engine, root)
    assert registry.published == kept
    assert set(engine.slots.keys) == set(kept.versions)
    assert registry.reasons == {}


def test_a_root_that_is_no_folder_is_refused(engine, root):
    with pytest.raises(AdapterError, match="is not a folder"):
        Registry(engine.slots, root / "none", engine.queue.append, state=root / "state.json")


def test_a_resident_version_answers_with_its_own_weights(registry, engine, put, contents):
    put("a/1", 0)
    old = registry.load("a").key
    engine.step()
    engine.slots.acquire(old)
    put("a/2", 1)
    new = registry.load("a").key
    engine.step()
    model = engine.slots._loaded.model
    x = torch.randn(2, model.config.hidden_size)
    linear = model.model.layers[0].self_attn.q_proj
    with engine.slots.using([old, new], [1, 1]), torch.no_grad():
        added = linear(x) - linear.base_layer(x)
    for row, folder in enumerate(contents[:2]):
        tensors = load_file(folder / WEIGHTS)
        a, b = (tensors[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{m}.weight"] for m in "AB")
        torch.testing.assert_close(added[row], 16 * (x[row] @ a.t() @ b.t()), rtol=1e-4, atol=1e-4)
    engine.slots.release(old)


class Machine(RuleBasedStateMachine):
    """Random changes and requests beside a plain model of what must be served."""

    base: Loaded
    contents: list[Path]

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp())
        self.hashes = [json.loads((f / MANIFEST).read_text())["content_hash"][:16] for f in self.contents]
        self.disk: dict[tuple[str, str], int | None] = {}  # (name, version) → content, None = damaged
        self.names: dict[str, str] = {}
        self.aliases: dict[str, str] = {}
        self.versions: list[str] = []
        self.asked: dict[str, int] = {}
        self.clock = 0
        self.held: list[str] = []
        for content, name in enumerate("abcd"):
            self.put(name, "1", content)
        self.start()
        for name in "abc":
            self.load(name, None)

    def start(self) -> None:
        self.slots = Slots(self.base, max_slots=3, max_rank=4)
        state = self.root / ".state.json"
        self.registry = Registry(self.slots, self.root, at_once(self.slots), state=state, drain_seconds=0.0)

    def teardown(self) -> None:
        self.slots.close()
        shutil.rmtree(self.root)

    @rule(name=st.sampled_from("ab"), content=st.sampled_from([0, 1, 2, 3, None]))
    def second(self, name, content):
        self.put(name, "2", content)

    @rule(name=st.sampled_from("ab"), content=st.integers(0, 3))
    def overwrite(self, name, content):
        self.put(name, "1", content)

    def put(self, name: str, version: str, content: int | None) -> None:
        folder = self.root / name / version
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.contents[content or 0], folder)
        if content is None:
            (folder / WEIGHTS).write_bytes(b"damaged")
        self.disk[name, version] = content

    @rule(name=st.sampled_from("abcde"))
    def load_latest(self, name):
        self.load(name, None)

    @rule(name=st.sampled_from("abcd"))
    def load_first(self, name):
        self.load(name, "1")

    @rule(name=st.sampled_from("abc"))
    def load_second(self, name):
        self.load(name, "2")

    def load(self, name: str, version: str | None) -> None:
        there = sorted(v for n, v in self.disk if n == name)
        picked = version or (there[-1] if there else None)
        content = self.disk.get((name, picked))
        key = None if content is None else f"{name}@{self.hashes[content]}"
        fits = key is not None and (key in self.versions or self.room(name))
        if not fits:
            with pytest.raises(AdapterError):
                self.registry.load(name, version)
            return
        assert self.registry.load(name, version).key == key
        if key not in self.versions:
            self.versions.append(key)
            self.asked.pop(key, None)
        old, self.names[name] = self.names.get(name), key
        self.sweep(old)

    def room(self, name: str) -> bool:
        """Evict as the registry must; whether there is room for one more."""
        leaving = set(self.held) - set(self.versions)
        if len(self.versions) + len(leaving) < 3:
            return True
        if leaving:
            return False
        idle = [k for k in self.versions if k not in self.held and k not in self.aliases.values()]
        if idle:
            self.drop(min(idle, key=lambda key: (key.startswith(f"{name}@"), self.asked.get(key, 0))))
        return bool(idle)

    def drop(self, key: str) -> None:
        self.versions.remove(key)
        self.asked.pop(key, None)
        self.names = {n: k for n, k in self.names.items() if k != key}

    def sweep(self, key: str | None) -> None:
        if key in self.versions and key not in (*self.names.values(), *self.aliases.values()):
            self.drop(key)

    @rule(name=st.sampled_from("abcd"))
    def unload(self, name):
        keys = [key for key in self.versions if key.startswith(f"{name}@")]
        if not keys or set(keys) & set(self.aliases.values()):
            with pytest.raises(AdapterError):
                self.registry.unload(name)
            return
        self.registry.unload(name)
        for key in keys:
            self.drop(key)

    @rule(alias=st.sampled_from("xy"), name=st.sampled_from("abx"))
    def alias(self, alias, name):
        key = self.aliases.get(name) or self.names.get(name)
        if key is None:
            with pytest.raises(AdapterError):
                self.registry.alias(alias, name)
            return
        assert self.registry.alias(alias, name) == key
        old, self.aliases[alias] = self.aliases.get(alias), key
        self.sweep(old)

    @rule(alias=st.sampled_from("xy"))
    def unalias(self, alias):
        if alias not in self.aliases:
            with pytest.raises(AdapterError):
                self.registry.unalias(alias)
            return
        self.registry.unalias(alias)
        self.sweep(self.aliases.pop(alias))

    @rule(model=st.sampled_from("abcdxy"))
    def request(self, model):
        key = self.aliases.get(model) or self.names.get(model)
        if key is None:
            with pytest.raises(AdapterError, match="is not served"):
                key_of(self.registry, model)
            return
        with self.registry.serving(model) as got:
            self.slots.acquire(got)
        assert got == key
        self.clock += 1
        self.asked[key] = self.clock
        self.held.append(key)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 9), count=st.integers(1, 5))
    def finish(self, which, count):
        for _ in range(min(count, len(self.held))):
            self.slots.release(self.held.pop(which % len(self.held)))

    @rule()
    def restart(self):
        """A new process: requests are gone; what was published comes back where its folder is as it was.

        What does not stays in the file until the next change, so a later restart may find it again.
        """
        filed = read_published(self.root / ".state.json")
        self.slots.close()
        self.start()
        self.registry.restore()
        self.held, self.asked = [], {}
        self.versions, self.names, self.aliases = list(filed.versions), dict(filed.names), dict(filed.aliases)
        for key, version in filed.versions.items():
            content = self.disk.get(tuple(version.place.split("/")))
            if content is None or not key.endswith(self.hashes[content]):
                self.aliases = {alias: k for alias, k in self.aliases.items() if k != key}
                self.drop(key)

    @invariant()
    def what_is_served_is_what_the_model_says(self):
        published = self.registry.published
        assert (published.names, published.aliases) == (self.names, self.aliases)
        assert set(published.versions) == set(self.versions) == set(self.slots.keys)

    @invariant()
    def requests_keep_their_versions_and_nothing_else_keeps_memory(self):
        residents = set(self.versions) | set(self.held)
        assert self.slots.taken == len(residents)
        assert len({self.slots.slot_of(key) for key in residents}) == len(residents)
        assert (self.slots.used_bytes > 0) == bool(residents)


def test_random_changes_and_requests_agree_with_a_plain_model(base, contents):
    machine = type("Bound", (Machine,), {"base": base, "contents": contents})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=40, stateful_step_count=50, deadline=None)
    )


def test_the_operators_own_folders_are_served_kept_and_loaded_again_when_they_changed(
    engine, root, put, contents
):
    fixed = {"own": Path(shutil.copytree(contents[0], root.parent / "elsewhere"))}
    state = root / ".state.json"
    registry = Registry(engine.slots, root, engine.queue.append, state=state, fixed=fixed, drain_seconds=0.0)
    registry.restore()
    engine.step()
    first = key_of(registry, "own")
    for name, content in (("a", 1), ("b", 2), ("c", 3)):  # three slots
        put(f"{name}/1", content)
        try:
            registry.load(name)
        except AdapterError:  # its slot is free once the engine has retired the evicted one
            engine.step()
            registry.load(name)
        engine.step()
    assert "own" in registry.published.names
    assert len(registry.published.names) == 3
    shutil.rmtree(fixed["own"])
    shutil.copytree(contents[3], fixed["own"])
    with pytest.raises(AdapterError, match="no room"):
        registry.load("own")
    registry.unload("c")
    engine.step()
    assert registry.load("own").key != first
    again = Registry(engine.slots, root, engine.queue.append, state=state)
    again.restore()
    assert "own" not in again.published.names
    assert "leads outside" in again.reasons["own"]


def test_without_root_and_file_only_the_operators_own_are_served(engine, contents):
    registry = Registry(engine.slots, None, engine.queue.append, state=None, fixed={"own": contents[0]})
    registry.restore()
    assert list(registry.published.names) == ["own"]
    assert registry.poll() == []
    with pytest.raises(AdapterError, match="no adapter root"):
        registry.load("other")
