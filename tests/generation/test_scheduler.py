from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from seektune.generation.pages import Pages
from seektune.generation.request import Request, Sampling
from seektune.generation.scheduler import Scheduler
from seektune.generation.sequence import Sequence

SIZE, POOL = 2, 12


def sequence(index: int, prompt: int = 3, answer: int = 4, adapter: str | None = None) -> Sequence:
    request = Request(
        id=str(index),
        prompt=tuple(range(100 * index, 100 * index + prompt)),
        sampling=Sampling(max_tokens=answer),
        adapter=adapter,
    )
    return Sequence(request, prompt + answer, index)


def compute(scheduler: Scheduler, finished: list[Sequence]) -> list[tuple[Sequence, int]]:
    """One step in which every completed sequence chooses token 0."""
    chunks = scheduler.schedule()
    for item, size in chunks:
        assert len(item.table.pages) * SIZE >= item.computed + size
        item.computed += size
        scheduler.pages.seal(item.table, item.tokens, item.computed)
        if not item.pending:
            item.tokens.append(0)
            if len(item.tokens) == item.longest:
                scheduler.remove(item)
                finished.append(item)
    return chunks


def scheduler_of(num_pages: int = POOL, seqs: int = 4, budget: int = 6, preempts: bool = True) -> Scheduler:
    pages = Pages(num_pages, SIZE)
    return Scheduler(pages, max_num_seqs=seqs, max_num_batched_tokens=budget, preempts=preempts)


JOBS = st.lists(
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.sampled_from([None, "a", "b"])),
    min_size=1,
    max_size=12,
)


@given(jobs=JOBS, seqs=st.integers(1, 5), budget=st.integers(1, 8), data=st.data())
def test_every_sequence_ends_within_the_limits_whatever_is_cancelled(
    jobs: list[tuple[int, int, str | None]], seqs: int, budget: int, data: st.DataObject
) -> None:
    scheduler, finished, cancelled = scheduler_of(seqs=seqs, budget=budget), [], []
    coming = [sequence(index, *job) for index, job in enumerate(jobs)]
    alive: list[Sequence] = []
    steps = 0
    while coming or len(scheduler):
        if coming and (data.draw(st.booleans()) or not len(scheduler)):
            alive.append(coming.pop(0))
            scheduler.add(alive[-1])
        alive = [item for item in alive if item not in finished]
        if alive and data.draw(st.integers(0, 9)) == 0:
            gone = alive.pop(data.draw(st.integers(0, len(alive) - 1)))
            scheduler.remove(gone)
            cancelled.append(gone)
        chunks = compute(scheduler, finished)
        assert sum(size for _, size in chunks) <= budget
        assert len(scheduler.running) <= seqs
        assert all(size > 0 for _, size in chunks)
        assert chunks or not len(scheduler)  # something always moves
        steps += 1
        assert steps < 2000
    assert scheduler.pages.used == 0
    assert len(finished) + len(cancelled) == len(jobs)


@given(jobs=JOBS, budget=st.integers(1, 8))
def test_without_preemption_an_admitted_sequence_keeps_its_pages(
    jobs: list[tuple[int, int, str | None]], budget: int
) -> None:
    scheduler, finished = scheduler_of(budget=budget, preempts=False), []
    for index, job in enumerate(jobs):
        scheduler.add(sequence(index, *job))
    while len(scheduler):
        compute(scheduler, finished)
    assert scheduler.preemptions == 0
    assert len(finished) == len(jobs)


def test_the_oldest_keeps_its_pages_and_the_youngest_starts_again() -> None:
    scheduler, finished = scheduler_of(num_pages=6, budget=12), []
    old, young = sequence(0, 4, 7), sequence(1, 4, 7)
    scheduler.add(old)
    scheduler.add(young)
    while not scheduler.preemptions:
        compute(scheduler, finished)
    assert scheduler.running == [old]
    assert (young.computed, young.table.pages) == (0, [])
    assert young.answered > 0  # what was answered is kept
    while len(scheduler):
        compute(scheduler, finished)
    assert finished == [old, young]


def test_a_long_prompt_comes_in_chunks_and_does_not_stall_others() -> None:
    scheduler, finished = scheduler_of(num_pages=40, budget=6), []
    talking = sequence(0, 2, 12)
    scheduler.add(talking)
    compute(scheduler, finished)
    reading = sequence(1, 17, 1)
    scheduler.add(reading)
    sizes = []
    while reading not in finished:
        chunks = dict(compute(scheduler, finished))
        assert chunks[talking] == 1
        sizes.append(chunks[reading])
    assert sizes == [5, 5, 5, 2]


def test_sequences_of_one_adapter_are_admitted_in_order() -> None:
    scheduler, finished = scheduler_of(num_pages=99, seqs=2, budget=99), []
    for index in range(5):
        scheduler.add(sequence(index))
    while len(scheduler):
        compute(scheduler, finished)
    assert [item.request.id for item in finished] == list("01234")


@given(sizes=st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=12, max_size=20))
def test_no_adapter_gets_ahead_of_another_by_more_than_what_was_under_way(
    sizes: list[tuple[int, int]],
) -> None:
    """Served tokens of two adapters that both wait differ by no more than the sequences admitted ahead."""
    seqs = 2
    scheduler, finished = scheduler_of(num_pages=99, seqs=seqs, budget=8), []
    for index, job in enumerate(sizes):
        scheduler.add(sequence(index, *job, "busy"))
    for _ in range(3):
        compute(scheduler, finished)
    served = {"busy": 0, "late": 0}
    for index in range(len(sizes), len(sizes) + 5):
        scheduler.add(sequence(index, 4, 4, "late"))
    while set(scheduler._waiting) == {"busy", "late"}:
        for item, size in compute(scheduler, finished):
            served[item.request.adapter or ""] += size
        assert abs(served["busy"] - served["late"]) <= (seqs + 1) * 16


def test_idle_time_earns_no_credit() -> None:
    scheduler, finished = scheduler_of(num_pages=99, seqs=1, budget=8), []
    for index in range(6):
        scheduler.add(sequence(index, 3, 3, "busy"))
    for _ in range(9):
        compute(scheduler, finished)
    done = len(finished)
    for index in range(6, 12):
        scheduler.add(sequence(index, 3, 3, "late"))
    while len(finished) < done + 6:
        compute(scheduler, finished)
    recent = [item.request.adapter for item in finished[done:]]
    assert recent.count("busy") >= 2  # the newcomer does not take the engine for itself
