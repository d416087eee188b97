"""One line of the doctor's report."""

from __future__ import annotations

from seektune.recipes.check import Check, page


def test_names_findings_and_notes_stand_in_columns() -> None:
    checks = [Check("torch", "2.13.0", "tested >=2.11"), Check("python", "3.11", "fine")]
    assert [line for line, _ in page({"core": checks})] == [
        "core",
        "  torch            2.13.0       tested >=2.11",
        "  python           3.11         fine",
        "",
    ]


def test_a_note_that_does_not_fit_goes_below_and_no_line_is_longer_than_the_terminal() -> None:
    check = Check("disk", "64 GiB free", "words " * 30)
    lines = [line for line, _ in page({"disk": [check]}, width=60)]
    assert lines[1] == "  disk             64 GiB free"
    assert max(map(len, lines)) <= 60
    assert " ".join(lines[2:]).split() == ["words"] * 30


def test_a_command_is_never_cut_in_two() -> None:
    command = "pip install 'seektune[track]' adds mlflow-skinny"
    lines = [line.strip() for line, _ in page({"x": [Check("track", "missing", command)]}, width=45)]
    assert all(word in " ".join(lines).split() for word in command.split())


def test_what_is_wrong_is_marked() -> None:
    (_, (line, fine), _) = page({"core": [Check("torch", "missing", "pip install torch", fine=False)]})
    assert line.startswith("! torch ")
    assert not fine


def test_every_check_has_the_same_keys_in_json() -> None:
    assert Check("a", "b", value=3).to_json() == {"found": "b", "note": "", "fine": True, "value": 3}
