"""Rows and samples on disk: Arrow files that are written in one pass and read in any order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from seektune.types import IGNORE, Example, Message, Pair, Row, Sample, ToolCall

BLOCK = 2048
"""Rows of one Arrow record batch."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, check_circular=False)

ROWS = pa.schema({"row_id": pa.string(), "row": pa.string()})
SAMPLES = pa.schema(
    {
        "row_id": pa.string(),
        "side": pa.string(),  # of a pair: chosen or rejected
        "tokens": pa.list_(pa.int32()),  # the inputs and, last, what follows the last of them
        "trained": pa.list_(pa.uint8()),  # 1 where the token that follows is a target
        "weight": pa.float32(),  # of all targets
        "weights": pa.list_(pa.float32()),  # one per input, where they differ
    }
)


class Writer:
    """An Arrow file that grows row by row and holds one block in memory."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, schema)
        self._block: list[tuple[Any, ...]] = []

    def add(self, *values: Any) -> None:
        """Append one row, its values in the order of the schema."""
        self._block.append(values)
        if len(self._block) == BLOCK:
            self._flush()

    def add_row(self, row: Row) -> None:
        """Append an example or a pair."""
        self.add(row.row_id, dump_row(row))

    def add_sample(self, sample: Sample, side: str = "chosen") -> int:
        """Append a tokenised example; how many of its tokens are trained."""
        targets = np.asarray(sample.targets, np.int32)
        tokens = np.empty(len(targets) + 1, np.int32)
        tokens[:-1] = sample.input_ids
        tokens[-1] = targets[-1] if len(targets) and targets[-1] != IGNORE else 0
        trained = (targets != IGNORE).view(np.uint8)
        if isinstance(sample.weight, int | float):
            self.add(sample.row_id, side, tokens, trained, sample.weight, None)
        else:
            self.add(sample.row_id, side, tokens, trained, None, np.asarray(sample.weight, np.float32))
        return int(np.count_nonzero(trained))

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._flush()
        self._writer.close()
        self._file.close()

    def _flush(self) -> None:
        if self._block:
            columns = zip(*self._block, strict=True)
            arrays = [_column(list(c), field.type) for c, field in zip(columns, self._schema, strict=True)]
            self._writer.write_batch(pa.record_batch(arrays, schema=self._schema))
            self._block.clear()


class _Blocks:
    """The record batches of a memory-mapped file, found by row."""

    def __init__(self, path: Path | str) -> None:
        self._reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self.blocks = [self._reader.get_batch(i) for i in range(self._reader.num_record_batches)]
        self.rows = sum(int(block.num_rows) for block in self.blocks)

    def find(self, index: int) -> tuple[int, int]:
        """The number of the block of row `index`, and the row's place there."""
        if not -self.rows <= index < self.rows:
            raise IndexError(index)
        return divmod(index % self.rows, BLOCK)


class RowTable(Sequence[Row]):
    """Examples and pairs of an Arrow file, read when asked for."""

    def __init__(self, path: Path | str) -> None:
        self._blocks = _Blocks(path)

    def __len__(self) -> int:
        return self._blocks.rows

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number, place = self._blocks.find(index)
        block = self._blocks.blocks[number]
        return load_row(block.column(1)[place].as_py(), block.column(0)[place].as_py())

    def dumped(self, numbers: NDArray[np.int64]) -> Iterator[tuple[str, str]]:
        """(row_id, row as `dump_row` wrote it) of the rows of these numbers, faster than one by one."""
        blocks, places = np.divmod(numbers, BLOCK)
        changes = (np.flatnonzero(np.diff(blocks)) + 1).tolist()
        for start, end in pairwise([0, *changes, len(numbers)] if len(numbers) else [0]):
            found = self._blocks.blocks[blocks[start]].take(pa.array(places[start:end]))
            yield from zip(*(column.to_pylist() for column in found.columns), strict=True)


class _Samples(NamedTuple):
    """One block of samples as arrays over the mapped file."""

    row_ids: pa.Array
    ends: NDArray[np.int64]  # (n + 1,) of each sample's tokens; it has one less of everything else
    tokens: NDArray[np.int32]
    trained: NDArray[np.bool_]
    weight: NDArray[np.float32]
    weights: pa.Array | None  # None: of no sample in this block


class Chosen(Sequence[Row]):
    """Some rows of a table, by their numbers."""

    def __init__(self, rows: Sequence[Row], numbers: NDArray[np.int64]) -> None:
        self._rows, self._numbers = rows, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self._rows[int(self._numbers[index])]


class SampleTable(Sequence[Sample]):
    """Tokenised examples of an Arrow file, mapped into memory and read when asked for."""

    def __init__(self, path: Path | str) -> None:
        self._blocks = _Blocks(path)

    def __len__(self) -> int:
        return self._blocks.rows

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) input tokens of each sample."""
        parts = [np.diff(samples.ends) - 1 for samples in self._arrays]
        return np.concatenate([np.empty(0, np.int64), *parts])

    @cached_property
    def _arrays(self) -> list[_Samples]:
        return [_samples_of(block) for block in self._blocks.blocks]

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        number, place = self._blocks.find(index)
        block = self._arrays[number]
        start, end = block.ends[place : place + 2].tolist()
        tokens = block.tokens[start:end]
        trained = block.trained[start - place : end - place - 1]
        weights = None if block.weights is None else block.weights[place].values
        return Sample(
            tokens[:-1],
            np.where(trained, tokens[1:], IGNORE),
            block.row_ids[place].as_py(),
            float(block.weight[place]) if weights is None else weights.to_numpy(),
        )


def _samples_of(block: pa.RecordBatch) -> _Samples:
    tokens, trained, weight, weights = (block.column(place) for place in range(2, 6))
    return _Samples(
        row_ids=block.column(0),
        ends=tokens.offsets.to_numpy().astype(np.int64),
        tokens=tokens.values.to_numpy(),
        trained=trained.values.to_numpy().view(np.bool_),
        weight=weight.to_numpy(zero_copy_only=False),
        weights=None if weights.null_count == len(weights) else weights,
    )


def dump_row(row: Row) -> str:
    """A row as JSON, defaults left out; its `row_id` is kept beside it."""
    fields: dict[str, Any] = {}
    if isinstance(row, Example):
        fields["messages"] = list(map(_dump_message, row.messages))
        if row.options:
            fields |= {"options": row.options, "answer": row.answer}
    else:
        fields["prompt"] = list(map(_dump_message, row.prompt))
        sides = {"chosen": row.chosen, "rejected": row.rejected}
        fields |= {side: _dump_message(message) for side, message in sides.items() if message}
    if row.tools:
        fields["tools"] = row.tools
    if row.images:
        fields["images"] = row.images
    return _ENCODER.encode(fields)


def load_row(text: str, row_id: str) -> Row:
    """The row that `dump_row` wrote."""
    fields = json.loads(text)
    tools, images = fields.get("tools", ""), tuple(fields.get("images", ()))
    if "messages" in fields:
        messages = tuple(map(_load_message, fields["messages"]))
        options = tuple(fields.get("options", ()))
        return Example(messages, row_id, options, fields.get("answer"), tools, images)
    prompt = tuple(map(_load_message, fields["prompt"]))
    chosen, rejected = (
        _load_message(fields[side]) if side in fields else None for side in ("chosen", "rejected")
    )
    return Pair(prompt, chosen, rejected, row_id, tools, images)


def _dump_message(message: Message) -> dict[str, Any]:
    fields: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        fields["tool_calls"] = [
            {"name": call.name, "arguments": call.arguments} for call in message.tool_calls
        ]
    if message.weight is not None:
        fields["weight"] = message.weight
    return fields


def _load_message(fields: dict[str, Any]) -> Message:
    calls = tuple(ToolCall(**call) for call in fields["tool_calls"]) if "tool_calls" in fields else ()
    return Message(fields["role"], fields["content"], calls, fields.get("weight"))


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """A column of one block; lists of arrays are joined instead of visited number by number."""
    if not pa.types.is_list(kind) or any(value is None for value in values):
        return pa.array(values, kind)
    offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(values), kind.value_type))
