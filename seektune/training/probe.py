"""Evidence that costs something: rows with their losses, the first value that is not finite, moving adapters.

Nothing here runs at every step but a few numbers per row and the sum of learning rates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from seektune.adapters.attach import active_adapter, deltas_of
from seektune.adapters.shards import local
from seektune.models.load import Loaded
from seektune.models.sites import groups_by_site
from seektune.training.finding import Origin, Row
from seektune.types import IGNORE, Batch

MOVEMENT_STEPS = 20
"""Applied steps between two looks at B."""

SAMPLED = 4096
"""Values of each B that are kept for comparison, evenly spread."""

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)(?=\.|$)")
_LAYER_OR_CHILD = re.compile(r".*\blayers\.\d+(\.\w+)?")


def row_lengths(batches: Sequence[Batch]) -> tuple[int, ...]:
    """Tokens of each row of a step."""
    return tuple(length for batch in batches for length in batch.cu_seqlens.diff().tolist())


def rows_of(
    batches: Sequence[Batch], log_probs: Sequence[Tensor], total: int | None = None
) -> tuple[Row, ...]:
    """The rows of a step in order, with their mean losses; `log_probs` (T,) per batch, as `TrainStep` has.

    `total` tokens of the step, where these are not all of its batches.
    """
    total = total or sum(batch.input_ids.numel() for batch in batches)
    rows = []
    for batch, values in zip(batches, log_probs, strict=True):
        targets, values = batch.targets[0].cpu(), values.detach().cpu()
        for row_id, part in zip(batch.row_ids, batch.sequences(), strict=True):
            kept = values[part][targets[part] != IGNORE]
            loss = -kept.double().mean().item() if len(kept) else None
            tokens = part.stop - part.start
            rows.append(Row(row_id, tokens, tokens / total, loss))
    return tuple(rows)


def bad_rows(batch: Batch, log_probs: Tensor) -> list[str]:
    """The rows of a batch with a log-prob that is not finite."""
    parts = zip(batch.row_ids, batch.sequences(), strict=True)
    return [row_id for row_id, part in parts if not log_probs[part].isfinite().all()]


def parameters_finite(parameters: Iterable[Tensor]) -> bool:
    """Whether every value of every parameter is finite; waits for the device once."""
    flags = [torch.isfinite(local(parameter.detach())).all() for parameter in parameters]
    return not flags or bool(torch.stack(flags).all())


class Movement:
    """How far B moves, group by group; B starts at zero, so an adapter whose B stands still does nothing.

    Only what is trainable now is expected to move: make a new one where another stage trains other groups.
    `factors` has the learning rates relative to the run's, by id, of parameters where they differ.
    """

    def __init__(self, loaded: Loaded, factors: Mapping[int, float] = MappingProxyType({})) -> None:
        groups = groups_by_site(loaded.model, loaded.family)
        name = active_adapter(loaded)
        self._watched: list[tuple[str, nn.Parameter]] = [
            (groups[site], parameter)
            for site, delta in ({} if name is None else deltas_of(loaded, name)).items()
            for key, parameter in delta.named_parameters()
            if key.endswith("_B") and parameter.requires_grad
        ]
        self._factors = [factors.get(id(parameter), 1.0) for _, parameter in self._watched]
        self._start()

    def after_step(self, learning_rate: float) -> dict[str, float] | None:
        """Count an applied step; every 20th tells group → largest move of a value per unit of learning rate.

        Adam moves a value by at most about the learning rate per step, so 1 is as fast as can be.
        """
        self._rates += learning_rate
        self._steps += 1
        if self._steps < MOVEMENT_STEPS or self._rates == 0:
            return None
        moved: dict[str, float] = {}
        watched = zip(self._watched, self._before, self._factors, strict=True)
        for (group, parameter), before, factor in watched:
            moves = (_sample(parameter) - before).abs()
            largest = float(moves.max()) if moves.numel() else 0.0  # another rank has all of it
            moved[group] = max(moved.get(group, 0.0), largest / (self._rates * factor))
        self._start()
        return moved

    def _start(self) -> None:
        self._before = [_sample(parameter) for _, parameter in self._watched]
        self._rates, self._steps = 0.0, 0


def first_non_finite(
    model: nn.Module, forward: Callable[[Batch], Tensor], batches: Iterable[Batch]
) -> Origin | None:
    """Run a step's batches once more and say where the first value that is not finite appears.

    `forward` gives the loss of a batch, with its graph. First the outputs of embedding, decoder layers and
    their parts, then the gradients on the way back; None where everything is finite this time. The
    gradients it makes are cleared. On several ranks all must call it.
    """
    _clear_gradients(model)  # clipping by a norm that is not finite has spoilt all that were there
    try:
        for batch in batches:
            with _watched(model) as trace:
                loss = forward(batch)
            if trace.module is not None or not bool(torch.isfinite(loss)):
                return _refined(model, trace.module)
            if loss.requires_grad:
                loss.backward()
                if (module := trace.gradient_origin(model)) is not None:
                    return Origin(module, _layer(module), "gradient")
        return None
    finally:
        _clear_gradients(model)


def _clear_gradients(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None


class _Trace:
    """What the hooks saw: the first module with a bad output, and gradients at the points of the stream."""

    def __init__(self) -> None:
        self.module: str | None = None
        self.stream: dict[str, bool] = {}  # embedding, layers, norm → is the gradient finite

    def output(self, name: str, value: Any, in_stream: bool) -> None:
        tensor = _first_tensor(value)
        if tensor is None:
            return
        if self.module is None and not bool(torch.isfinite(tensor.detach()).all()):
            self.module = name
        if in_stream:
            self.stream.setdefault(name, True)
            if tensor.requires_grad:
                tensor.register_hook(lambda gradient: self.gradient(name, gradient))

    def gradient(self, name: str, gradient: Tensor) -> None:
        self.stream[name] &= bool(torch.isfinite(gradient).all())

    def gradient_origin(self, model: nn.Module) -> str | None:
        """The module whose backward made the first bad gradient: the one behind the last bad point."""
        points = [*self.stream, "loss"]
        born = max((i + 1 for i, name in enumerate(self.stream) if not self.stream[name]), default=-1)
        for name, parameter in model.named_parameters():
            if parameter.grad is None or bool(torch.isfinite(parameter.grad).all()):
                continue
            inside = [i for i, point in enumerate(points) if name.startswith(f"{point}.")]
            born = max([born, *inside])
        return points[born] if born >= 0 else None


@contextmanager
def _watched(model: nn.Module) -> Iterator[_Trace]:
    trace, handles = _Trace(), []
    embedding = model.get_input_embeddings()  # type: ignore[operator]  # of every transformers model
    for name, module in model.named_modules():
        part = _LAYER_OR_CHILD.fullmatch(name)
        trunk_norm = name.endswith("norm") and _LAYER.search(name) is None
        if part or trunk_norm or module is embedding:
            in_stream = not (part and part[1])
            handles.append(module.register_forward_hook(_noting(trace, name, in_stream)))
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()


def _noting(trace: _Trace, name: str, in_stream: bool) -> Callable[..., None]:
    return lambda _module, _inputs, output: trace.output(name, output, in_stream)


def _refined(model: nn.Module, name: str | None) -> Origin:
    """The parameter inside the module that is not finite itself, where there is one; None is the loss."""
    module = model.get_output_embeddings() if name is None else model.get_submodule(name)  # type: ignore[operator]
    inside = {id(parameter) for parameter in module.parameters()}
    for key, parameter in model.named_parameters():
        if id(parameter) in inside and not bool(torch.isfinite(parameter.detach()).all()):
            return Origin(key, _layer(key), "parameter")
    return Origin(name or "loss", _layer(name or ""), "output")


def _first_tensor(value: Any) -> Tensor | None:
    """The hidden states in what a module returns; masks and scores that follow may be infinite by right."""
    while isinstance(value, tuple | list) and value:
        value = value[0]
    return value if isinstance(value, Tensor) and value.is_floating_point() else None


def _layer(name: str) -> int | None:
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def _sample(parameter: Tensor) -> Tensor:
    flat = local(parameter.detach()).flatten()
    return flat[:: max(1, flat.numel() // SAMPLED)].clone()
