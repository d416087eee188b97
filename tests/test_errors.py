"""The error tree."""

from __future__ import annotations

import inspect

from seektune import errors

CLASSES = [error for _, error in inspect.getmembers(errors, inspect.isclass)]


def test_every_error_is_a_value_error_of_ours() -> None:
    assert all(issubclass(error, errors.SeektuneError) for error in CLASSES)
    assert issubclass(errors.SeektuneError, ValueError)


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "Error" in line and line[0] in "S├└│ "]
    names = [line.split()[-1] if "──" not in line else line.split("── ")[1].split()[0] for line in drawn]
    assert sorted(names) == sorted(error.__name__ for error in CLASSES)
    depth = {name: line.index(name) // 4 for name, line in zip(names, drawn, strict=True)}
    assert depth == {error.__name__: len(error.__mro__) - len(ValueError.__mro__) - 1 for error in CLASSES}
