"""The order of causes."""

from __future__ import annotations

from seektune.diagnosis.cause import QUESTIONS, Cause, ranked


def cause(question: str, kind: str, weight: float) -> Cause:
    return Cause(question, kind, weight, {}, "")  # type: ignore[arg-type]


def test_what_brings_about_the_others_comes_first_then_the_weightier() -> None:
    mixed = [cause(question, question, 1.0) for question in reversed(QUESTIONS)] + [
        cause("data", "leak", 2.0)
    ]
    found = [one.kind for one in ranked(mixed)]
    assert found == ["rate", "numbers", "targets", "leak", "data", "length", "symptoms"]


def test_a_kind_found_in_two_ways_is_told_once_by_the_weightier() -> None:
    found = ranked([cause("rate", "high", 0.1), cause("rate", "high", 0.4)])
    assert [one.weight for one in found] == [0.4]


def test_a_cause_is_plain_data() -> None:
    plain = cause("data", "leak", 1.0).to_json()
    assert (plain["question"], plain["kind"], plain["rows"]) == ("data", "leak", ())
