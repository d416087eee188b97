"""How the resident adapters of a model reach its modules: what each wrapper holds, and the mix they share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from seektune.errors import AdapterError
from seektune.ops.few_rows_lora import FewRows, few_rows, few_rows_lora_, loop_for
from seektune.ops.multi_expert_lora import ExpertLora
from seektune.ops.multi_lora import Mix, Term, mixed_terms, multi_lora_


@dataclass(eq=False)
class Current:
    """One object per model, held by every wrapper: the mix of the forward under way, None between two."""

    mix: Mix | None = None

    def check(self, rows: int) -> Mix:
        """The mix; AdapterError where it speaks of another number of rows."""
        mix = self.mix
        assert mix is not None
        if rows != mix.tokens and not mix.whole:
            raise AdapterError(
                f"a module got {rows} rows in a forward whose adapters were given for {mix.tokens}: call "
                "`Slots.using` with the number of tokens of every sequence of this very forward"
            )
        return mix


@dataclass(eq=False)
class ResidentLinears:
    """The matrices of every slot at one linear."""

    current: Current
    shape: tuple[int, int, int, int]  # S, R, in, out
    ranks: list[int]  # of each slot, 0 = it leaves this linear alone
    stacks: tuple[Tensor, Tensor] | None = None  # (S, R, in), (S, R, out); made for the first adapter
    _kept: tuple[Mix | None, list[Term], FewRows | None] = (None, [], None)

    def stage(self, slot: int, a: Tensor, b: Tensor) -> None:
        """Copy a (r, in) and b (r, out), scaled, to a slot that no row uses; its rank is set later."""
        slots, rank, width, out = self.shape
        if self.stacks is None:  # memory that is never written is only reserved on CPU, not taken
            self.stacks = a.new_empty(slots, rank, width), b.new_empty(slots, rank, out)
            loop_for(*self.stacks)  # compiles here, on the thread that prepares, and not in a step
        for stack, matrix in zip(self.stacks, (a, b), strict=True):
            stack[slot, : len(matrix)] = matrix

    def terms(self) -> list[Term]:
        """The products of this linear in the mix under way; the same list as long as the mix is the same."""
        return self._planned()[1]

    def add_(self, y: Tensor, x: Tensor) -> None:
        """Add what the slots' adapters add to y (T, out), the base's own output of x (T, in)."""
        mix, terms, few = self._planned()
        if few is not None and mix is not None and x.shape[0] == mix.tokens:
            few_rows_lora_(y, x, few)
        elif terms:
            self.current.check(len(x))
            multi_lora_(y, x, terms)

    def _planned(self) -> tuple[Mix | None, list[Term], FewRows | None]:
        """The mix under way and what to add in it: the same objects as long as the mix is the same."""
        mix = self.current.mix
        if self._kept[0] is not mix:
            self._kept = (mix, [], None)
            if mix is not None and self.stacks is not None:
                terms = mixed_terms(mix, self.ranks, *self.stacks)
                self._kept = (mix, terms, few_rows(mix, self.ranks, *self.stacks) if terms else None)
        return self._kept


@dataclass(eq=False)
class ResidentExperts:
    """The matrices of every slot at one layer's routed experts."""

    current: Current
    loras: list[ExpertLora | None]  # by slot; None = it leaves them alone

    @property
    def at_work(self) -> bool:
        """Whether a row of the mix under way has an adapter here."""
        mix = self.current.mix
        return mix is not None and any(self.loras[segment.slot] is not None for segment in mix.segments)

    def slots(self, rows: int) -> Tensor:
        """The slot of each row (rows,), −1 = none."""
        mix = self.current.check(rows)
        return mix.slots if rows == mix.tokens else mix.slots[:1].expand(rows)
