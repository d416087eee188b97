"""From files to samples: nothing is lost, nothing is hidden, and what did not change is not made again."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seektune.config.data import DataConfig
from seektune.config.section import validated
from seektune.data.prepare import Prepared, open_prepared, prepare
from seektune.data.reading import read_records
from seektune.errors import DataError
from seektune.models.chat import load_chat
from seektune.types import Example

OFF = {
    "cleaning": {"control_characters": False, "whitespace": False, "mojibake": False},
    "dedup": {"exact": False, "near": False},
}
REAL = [
    *(f"formats/{name}" for name in (
        "lf_alpaca_en_demo.json", "lf_dpo_zh_demo.json", "lf_glaive_toolcall_zh_demo.json",
        "lf_reason_tool_use_demo_50.jsonl", "lf_kto_en_demo.json", "mg_sample.jsonl",
    )),
    "medqa/dev_5opt.jsonl", "pubmedqa/train.jsonl", "cmexam/practice_train.jsonl", "trec/train.jsonl",
]  # fmt: skip


@pytest.fixture(scope="session")
def tiny() -> Any:
    return load_chat("tiny/deepseek_v3")


def config_of(path: Path, **changes: Any) -> DataConfig:
    return validated(DataConfig, {"train": [str(path)], "max_length": 100_000} | changes, "data")


def fates(ready: Prepared) -> tuple[int, int, int, int]:
    report = ready.report
    return report["total"], report["kept"], report["quarantined"], report["dropped"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def questions(count: int) -> list[dict[str, str]]:
    words = (
        "heart",
        "liver",
        "kidney",
        "spleen",
        "lung",
        "brain",
        "skin",
        "bone",
        "nerve",
        "eye",
        "ear",
        "nose",
    )
    made = random.Random(0)
    return [
        {"question": " ".join(made.choices(words, k=9)) + "?", "answer": made.choice(words)}
        for _ in range(count)
    ]


def test_every_record_is_kept_quarantined_or_dropped_with_its_reason(
    tiny: Any, write: Callable[..., Path], tmp_path: Path
) -> None:
    good = questions(30)
    path = write([*good, good[3], {"question": "no answer"}, {"question": "q" * 500, "answer": "a"}])
    with path.open("ab") as file:
        file.write(b'{"question": "cut\n\xff\xfe broken\n')
    ready = prepare(config_of(path, max_length=200), tiny, tmp_path / "data")
    assert fates(ready) == (35, 30, 3, 2)
    quarantined = lines(tmp_path / "data/quarantine.jsonl")
    assert sorted(entry["line"] for entry in quarantined) == [32, 34, 35]
    assert all(
        set(entry) == {"file", "line", "reason", "raw"} and entry["file"] == str(path)
        for entry in quarantined
    )
    dropped = lines(tmp_path / "data/dropped.jsonl")
    assert [(entry["row_id"].rpartition(":")[2], entry["reason"]) for entry in dropped] == [
        ("31", "duplicate"),
        ("33", "too long"),
    ]
    assert len(ready.train) == len(ready.train_rows) == 30
    assert "⟦" in (tmp_path / "data/samples.txt").read_text(encoding="utf-8")


def test_too_many_unusable_records_stop_the_run_and_stay_to_be_looked_at(
    tiny: Any, write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write([*questions(40), *({"question": "no answer"} for _ in range(10))])
    with pytest.raises(DataError, match="10 of 50 records are unusable"):
        prepare(config_of(path), tiny, tmp_path / "data")
    assert len(lines(tmp_path / "data/quarantine.jsonl")) == 10
    with pytest.raises(DataError, match="holds no prepared data"):
        open_prepared(tmp_path / "data")
    assert len(prepare(config_of(path, max_bad_fraction=0.5), tiny, tmp_path / "data").train) == 40


def test_unchanged_data_is_taken_as_it_lies_and_changed_data_is_made_again(
    tiny: Any, write: Callable[..., Path], tmp_path: Path
) -> None:
    path, folder = write(questions(5)), tmp_path / "data"
    first = prepare(config_of(path), tiny, folder)
    again, packed = (prepare(config_of(path, **more), tiny, folder) for more in ({}, {"pack_tokens": 900}))
    assert (first.reused, again.reused, packed.reused) == (False, True, True)
    assert again.report == first.report
    assert packed.report == first.report | {"packing": packed.report["packing"]}
    assert packed.report["packing"]["mode"] == "packed"
    with pytest.raises(DataError, match="more than pack_tokens 5"):
        prepare(config_of(path, pack_tokens=5), tiny, folder)
    for changed in (config_of(path, prompt_prefix="Q: "), config_of(write(questions(6)))):
        assert prepare(changed, tiny, folder).report["key"] != first.report["key"]


def test_held_out_rows_never_stay_in_training(tiny: Any, write: Callable[..., Path], tmp_path: Path) -> None:
    rows = questions(40)
    train, held = write(rows), write([rows[3], rows[7] | {"answer": "x"}], "held.jsonl")
    ready = prepare(config_of(train, eval={"path": str(held)}), tiny, tmp_path / "data")
    assert ready.report["leakage"]["exact"] == 2
    assert (len(ready.train), len(ready.held_out)) == (38, 2)
    told = prepare(
        config_of(train, eval={"path": str(held)}, dedup={"leakage": "report"}), tiny, tmp_path / "told"
    )
    assert told.report["leakage"]["exact"] == 2
    assert len(told.train) == 40


def test_a_fraction_is_held_out_by_question_and_counts_as_records_of_its_own(
    tiny: Any, write: Callable[..., Path], tmp_path: Path
) -> None:
    path = write(questions(40))
    ready = prepare(config_of(path, eval={"fraction": 0.25}), tiny, tmp_path / "data", seed=3)
    assert (len(ready.train), len(ready.held_out)) == (30, 10)
    assert fates(ready) == (40, 40, 0, 0)
    train, held = (
        {row.messages[0].content for row in rows} for rows in (ready.train_rows, ready.held_out_rows)
    )
    assert not train & held


def test_pairs_are_prepared_with_both_answers(tiny: Any, real_data: Path, tmp_path: Path) -> None:
    ready = prepare(config_of(real_data / "formats/lf_dpo_zh_demo.json", **OFF), tiny, tmp_path / "data")
    assert len(ready.train) == 2 * len(ready.train_rows)
    first, second = ready.train[0], ready.train[1]
    assert first.row_id == second.row_id
    assert list(first.input_ids) != list(second.input_ids)


def test_wrong_options_become_preference_records_that_are_read_again(
    tiny: Any, real_data: Path, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join((real_data / "medqa/dev_5opt.jsonl").read_text().splitlines()[:40]))
    ready = prepare(config_of(path, negatives={"kinds": ["options"]}), tiny, tmp_path / "data")
    assert ready.report["negatives"]["options"]["made"] == 40
    again = prepare(config_of(tmp_path / "data/negatives.jsonl", **OFF), tiny, tmp_path / "pairs")
    assert again.report["sources"][0]["format"] == "preference"
    assert len(again.train) == 80


def test_rows_like_the_target_and_unlike_it_are_told_apart(
    tiny: Any, real_data: Path, tmp_path: Path
) -> None:
    changes = {"target": str(real_data / "sst2/dev.jsonl")}
    ready = prepare(config_of(real_data / "sst2/train.jsonl", **changes), tiny, tmp_path / "data")
    unlike = prepare(config_of(real_data / "medmcqa/validation.jsonl", **changes), tiny, tmp_path / "unlike")
    assert ready.report["match"]["verdict"] != unlike.report["match"]["verdict"]


@pytest.mark.parametrize("name", REAL)
def test_with_cleaning_off_every_real_row_is_kept_equal(
    tiny: Any, real_data: Path, tmp_path: Path, name: str
) -> None:
    config = config_of(real_data / name, **OFF)
    ready = prepare(config, tiny, tmp_path / "data")
    total, kept, quarantined, dropped = fates(ready)
    assert (total, quarantined, dropped) == (kept, 0, 0)
    if not name.startswith(("formats/lf_dpo", "formats/lf_kto")):
        assert list(ready.train_rows) == read_records(real_data / name)


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, int, list[tuple[str, float, int]]]:
    kinds = st.sampled_from(["flip", "cut", "swap", "gbk", "huge", "nul", "drop newline"])
    return (
        draw(st.sampled_from(REAL)),
        draw(st.integers(0, 50)),
        draw(st.lists(st.tuples(kinds, st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=6)),
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutations())
def test_mutated_real_files_lose_nothing_and_raise_nothing_else(
    tiny: Any, real_data: Path, tmp_path_factory: pytest.TempPathFactory, mutation: tuple[Any, ...]
) -> None:
    name, start, changes = mutation
    folder = tmp_path_factory.mktemp("mutated")
    whole = (real_data / name).read_bytes()
    lines_of_whole = whole.splitlines()
    start %= max(1, len(lines_of_whole) - 12)
    part = whole[:20_000] if name.endswith(".json") else b"\n".join(lines_of_whole[start : start + 12])
    path = folder / Path(name).name
    path.write_bytes(mutated(part, changes))
    for cleaning in (OFF, {}):
        config = config_of(path, max_bad_fraction=1, **cleaning)
        try:
            ready = prepare(config, tiny, folder / f"data{len(cleaning)}")
        except DataError:
            continue
        total, kept, quarantined, dropped = fates(ready)
        assert kept + quarantined + dropped == total
        assert len(lines(ready.folder / "quarantine.jsonl")) == quarantined
        assert len(lines(ready.folder / "dropped.jsonl")) == dropped
        assert len(ready.train_rows) == kept
        if cleaning and name.endswith(".jsonl") and ready.report["sources"][0]["encoding"] == "utf-8":
            check_untouched(part, path, ready)


def check_untouched(part: bytes, path: Path, ready: Prepared) -> None:
    """Every line of `path` that is a whole line of `part` gives the row it gave before."""
    before = set(part.splitlines())
    original = path.with_name("original.jsonl")
    touched = path.read_bytes().split(b"\n")
    numbers = [number for number, line in enumerate(touched, start=1) if line in before]
    original.write_bytes(b"\n".join(touched[number - 1] for number in numbers))
    if not numbers or ready.report["sources"][0]["format"] == "text":
        return
    expected = {row.messages for row in read_records(original)}
    kept = {row.messages for row in ready.train_rows if isinstance(row, Example)}
    assert expected <= kept


def mutated(content: bytes, changes: list[tuple[str, float, int]]) -> bytes:
    """`content` with each change made at a place given as a share of its length."""
    for kind, share, value in changes:
        at = int(share * len(content))
        match kind:
            case "flip":
                content = content[:at] + bytes([content[at] ^ (1 << value % 8)]) + content[at + 1 :]
            case "cut":
                end = content.find(b"\n", at)
                content = content[:at] + (content[end:] if end >= 0 else b"")
            case "swap":
                content = content[:at] + content[at + value :] + content[at : at + value]
            case "gbk":
                content = content[:at] + "诊断为高血压".encode("gb18030") + content[at:]
            case "huge":
                content = content[:at] + b"x" * 300_000 + content[at:]
            case "nul":
                content = content[:at] + b"\0" + content[at:]
            case _:
                content = content[:at] + content[at:].replace(b"\n", b"", 1)
        content = content or b"\n"
    return content
