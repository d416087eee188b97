"""What is written comes back equal, in any order, whatever a row holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seektune.data.prepared import (
    BLOCK,
    ROWS,
    SAMPLES,
    RowTable,
    SampleTable,
    Writer,
    dump_row,
    load_row,
)
from seektune.types import IGNORE, Example, Message, Pair, Row, Sample, ToolCall

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
messages = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    texts,
    st.lists(st.builds(ToolCall, texts, texts), max_size=2).map(tuple),
    st.none() | st.floats(0, 2, width=32),
)
conversations = st.lists(messages, min_size=1, max_size=4).map(tuple)
several = st.lists(texts, max_size=3).map(tuple)
closed = st.builds(Example, conversations, texts, several.filter(bool), st.integers(0, 2))
open_text = st.builds(Example, conversations, texts, tools=texts, images=several)
pairs = st.builds(Pair, conversations, st.none() | messages, st.none() | messages, texts, texts, several)
rows = closed | open_text | pairs


@given(rows)
def test_a_row_survives_being_written_as_json(row: Row) -> None:
    assert load_row(dump_row(row), row.row_id) == row


@pytest.mark.parametrize("count", [0, 1, BLOCK, BLOCK + 1, 3 * BLOCK - 1])
def test_rows_and_samples_are_read_back_from_any_place(tmp_path: Path, count: int) -> None:
    generator = np.random.default_rng(count)
    lengths = generator.integers(1, 9, count)
    with Writer(tmp_path / "rows", ROWS) as rows, Writer(tmp_path / "samples", SAMPLES) as samples:
        for i, length in enumerate(lengths.tolist()):
            rows.add_row(Example((Message("user", f"问 {i}"),), f"a:{i}"))
            samples.add_sample(Sample(range(length), [i] * length, f"a:{i}"))
    read, found = RowTable(tmp_path / "rows"), SampleTable(tmp_path / "samples")
    assert len(read) == len(found) == count
    assert found.lengths.tolist() == lengths.tolist()
    for i in {0, count // 2, count - 1} & set(range(count)):
        assert read[i] == read[i - count] == Example((Message("user", f"问 {i}"),), f"a:{i}")
        assert found[i].row_id == f"a:{i}"
        assert list(found[i].input_ids) == list(range(lengths[i]))
    assert [row.row_id for row in read] == [f"a:{i}" for i in range(count)]
    with pytest.raises(IndexError):
        found[count]


sample_parts = st.lists(
    st.tuples(st.integers(0, 2**31 - 1), st.booleans(), st.floats(0, 2, width=32)), min_size=1, max_size=8
)


@settings(max_examples=50)
@given(sample_parts, st.booleans())
def test_a_sample_keeps_its_targets_and_its_weights(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, bool, float]], weighted: bool
) -> None:
    tokens = [token for token, _, _ in parts]
    ids = [7, *tokens[:-1]]
    targets = [token if trained else IGNORE for token, trained, _ in parts]
    weight = [weight for _, _, weight in parts] if weighted else 0.5
    path = tmp_path_factory.mktemp("samples") / "samples"
    with Writer(path, SAMPLES) as writer:
        writer.add_sample(Sample(ids, targets, "a:1", weight))
    sample = SampleTable(path)[0]
    assert list(sample.input_ids) == ids
    assert list(sample.targets) == targets
    assert np.broadcast_to(sample.weight, len(ids)).tolist() == np.broadcast_to(weight, len(ids)).tolist()
