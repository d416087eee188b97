"""Nouns that cross rooms: every stage takes one of these and returns one of these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

IGNORE = -100
"""Target value that carries no loss, as in torch and transformers."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function an assistant asks for; `arguments` is JSON text, as it was given."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is system, user, assistant or tool.

    In `content`, `<image>` marks the place of an image, and an assistant's reasoning stands in front as
    `<think>…</think>`. `weight` multiplies the turn's loss; None leaves that to what is trained.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One conversation to learn from or to be asked.

    `options` are the candidate assistant answers of a closed question, `answer` the index of the right
    one; both are empty for open text. `row_id` is `file:line`. `tools` is a JSON list of function schemas,
    `images` has one path per `<image>` mark.
    """

    messages: tuple[Message, ...]
    row_id: str
    options: tuple[str, ...] = ()
    answer: int | None = None
    tools: str = ""
    images: tuple[str, ...] = ()

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The messages before the final assistant turn."""
        return self.messages[:-1] if self.messages[-1].role == "assistant" else self.messages


@dataclass(frozen=True, slots=True)
class Pair:
    """A preferred and a rejected answer to one prompt; rated answers (KTO) have only one of the two."""

    prompt: tuple[Message, ...]
    chosen: Message | None
    rejected: Message | None
    row_id: str
    tools: str = ""
    images: tuple[str, ...] = ()


Row = Example | Pair
"""What one usable record becomes."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One tokenised example: `targets[i]` is the token expected after `input_ids[: i + 1]`, or IGNORE.

    `weight` multiplies the loss of every position, or gives each position its own.
    """

    input_ids: Sequence[int] | NDArray[Any]
    targets: Sequence[int] | NDArray[Any]
    row_id: str
    weight: float | Sequence[float] | NDArray[Any] = 1.0

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Batch:
    """One ragged row of S sequences, T tokens in all; boundaries travel with it, never through a global."""

    input_ids: torch.Tensor  # (1, T) int64
    position_ids: torch.Tensor  # (1, T) int64, restarting at 0 per sequence
    cu_seqlens: torch.Tensor  # (S + 1,) int32: 0, end of sequence 1, …, T
    targets: torch.Tensor  # (1, T) int64, already shifted: the token that follows, or IGNORE
    weights: torch.Tensor  # (1, T) float32: weight of each position's loss
    row_ids: tuple[str, ...]  # S names, file:line

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on `device`."""
        tensors = ("input_ids", "position_ids", "cu_seqlens", "targets", "weights")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    def sequences(self) -> Iterator[slice]:
        """The token range of each sequence, in order."""
        bounds = self.cu_seqlens.tolist()
        return (slice(start, end) for start, end in pairwise(bounds))


class BatchSource(Protocol):
    """Batches of each epoch, a pure function of (seed, epoch); `len` is the number in one epoch."""

    def __len__(self) -> int: ...

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `index` in order, from position `start` on."""
        ...


class Chat(Protocol):
    """What rendering a conversation needs of a loaded model."""

    @property
    def tokenizer(self) -> Any:
        """A transformers tokenizer."""
        ...

    @property
    def template(self) -> str:
        """Name of the chat template in `data.templates` to use when the tokenizer carries none."""
        ...


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """What one optimiser step did; `loss` is the token-weighted mean over the whole step.

    A step that was not applied has the number of the one that takes its place; its loss and gradient may not
    be finite. `findings` are what health says of the step, as plain values (`training.finding.Finding`).
    """

    step: int
    epoch: float
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    eval_loss: float | None = None
    applied: bool = True  # False: its update was left out or undone
    loss_scale: float | None = None  # by which float16 gradients were multiplied
    findings: tuple[Mapping[str, Any], ...] = ()

    def calls_for(self, action: str) -> bool:
        """Whether a finding asks for `action`: warn, skip, rollback or stop."""
        return any(finding["action"] == action for finding in self.findings)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of this step over its wall time."""
        return self.tokens / max(self.seconds, 1e-9)


@dataclass(frozen=True, slots=True)
class InventoryRow:
    """One group's line in the trained-what table; a routed module counts its fused expert parameters."""

    group: str
    matched: int  # modules that carry an adapter
    existing: int  # modules of the group in the model
    parameters: int  # base parameters of the group
    trainable: int  # adapter parameters
    bytes: int  # of the adapter parameters


@dataclass(frozen=True, slots=True)
class Inventory:
    """What trains, group by group, and which checks have passed so far; the same of each stage of a run."""

    rows: tuple[InventoryRow, ...]
    total_parameters: int
    checks: dict[str, Any] = field(default_factory=dict)
    stages: tuple[Inventory, ...] = ()

    @property
    def trainable(self) -> int:
        """Adapter parameters in all groups."""
        return sum(row.trainable for row in self.rows)

    @property
    def trainable_share(self) -> float:
        """Adapter parameters over base parameters."""
        return self.trainable / max(self.total_parameters, 1)

    def to_json(self) -> dict[str, Any]:
        """The content of `inventory.json`."""
        return asdict(self) | {"trainable": self.trainable, "trainable_share": self.trainable_share}

    def __str__(self) -> str:
        head = f"{'group':<10}{'modules':>12}{'parameters':>16}{'trainable':>14}{'MB':>9}"
        lines = [
            f"{row.group:<10}{f'{row.matched} of {row.existing}':>12}{row.parameters:>16,}"
            f"{row.trainable:>14,}{row.bytes / 1e6:>9.2f}"
            for row in self.rows
        ]
        share = f"{self.trainable:,} of {self.total_parameters:,} parameters ({self.trainable_share:.2%})"
        return "\n".join([head, *lines, f"trains {share}"])


@dataclass(frozen=True, slots=True)
class RoutingProfile:
    """Which experts a set of tokens used, layer by layer; every token chooses K experts per layer."""

    counts: Mapping[int, tuple[int, ...]]  # layer → times each expert was chosen
    weights: Mapping[int, tuple[float, ...]]  # layer → sum of each expert's gate weights
    tokens: int

    def to_json(self) -> dict[str, Any]:
        """Plain values; the layers become strings."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Score:
    """An accuracy with its 95 % Wilson interval, all as fractions."""

    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One line of `evaluation.json`: base against tuned on the same rows, beside simple baselines."""

    model: str
    task: str
    n: int
    base: Score
    base_calibrated: Score
    tuned: Score
    majority: float
    tfidf: float
    p_value: float
    trainable_share: float
    router_unchanged: bool | None  # None where the model has no router
    cpu_seconds: float

    def to_json(self) -> dict[str, Any]:
        """The plain dictionary written to `evaluation.json`."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Completion:
    """One generated answer and why it ended: `stop` or `length`."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    adapter: str | None = None
