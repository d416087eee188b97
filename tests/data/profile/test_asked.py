"""A sample of prompts may be whole records or prompts alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from seektune.config.data import SourceConfig
from seektune.data.profile.asked import PROMPTS, asked_texts
from seektune.errors import DataError


@pytest.mark.parametrize("column", PROMPTS)
def test_a_column_of_prompts_is_enough(write: Callable[..., Path], column: str) -> None:
    path = write([{column: "Why do eyes water?"}, {column: " "}, {column: "为什么咳嗽？"}])
    assert asked_texts(SourceConfig(path=str(path))) == ["Why do eyes water?", "为什么咳嗽？"]


def test_of_records_with_an_answer_the_question_counts(write: Callable[..., Path]) -> None:
    path = write([{"question": "Why?", "answer": "So."}, {"question": "And alone?"}])
    assert asked_texts(SourceConfig(path=str(path))) == ["Why?", "And alone?"]


def test_a_source_without_prompts_is_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="holds no prompts"):
        asked_texts(SourceConfig(path=str(write([{"colour": "red"}]))))
