"""The text two rows are compared by, and how alike two such texts are.

A comparison text is `question⇥answers␌images`, normalised. Listed options stand on lines of their own in the
question, as they were given; answers and images are there only when the row has them and the view wants them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from seektune.data.duplicates.normal import normalised_all
from seektune.types import Example, Message, Row

ANSWERS, IMAGES = "\t", "\f"
OPTION = re.compile(r"\n[ \t]*(?=[(（]?[A-Z][)）.、:：．][ \t]*\S)")
LETTER = re.compile(r"[(（]?[A-Z][)）.、:：．][ \t]*(?=\S)")
LISTED = re.compile(r"[a-z] ")
"""The letter of an option in a comparison text."""

LEAST_BYTES = 40
"""Shorter texts are the same only when they are equal: a case of one word more is another case."""

MOST_PARTS = 12
"""Texts of more parts than this are conversations, not options: their order is meant."""

MOST_CHANGED = 0.25
"""Most of the question, or of what is not boilerplate, that may be edited between near duplicates."""

OWN_RUN = 3
"""Fewer characters than this between boilerplate are an edit in it, not the row's own words."""

SHORT_ANSWER = 100
"""Up to this many characters an answer may differ by slips of the pen only, not by a number or a word."""

IDEOGRAPH = re.compile(r"[\u3400-\u9fff]")

Common = Callable[[str], NDArray[np.bool_]]
"""Which characters of a text belong to boilerplate."""


def question_text(row: Row) -> str:
    """What a row asks: its user turns with the options they list, and its images.

    The instruction after the options of a closed question is left out. A row without a user turn is compared
    whole, without system messages.
    """
    return _text(row, answers=False)


def text_of(row: Row) -> str:
    """What a row teaches: its question and, after a tab, everything else that is said in it.

    System messages are left out: they are the same for many rows. Both sides of a pair count.
    """
    return _text(row, answers=True)


def asked_in(text: str) -> str:
    """The `question_text` of a row whose `text_of` is given."""
    body, mark, images = text.partition(IMAGES)
    return body.partition(ANSWERS)[0] + mark + images


def canonical(text: str) -> str:
    """A comparison text in which equal questions are equal: options without letters and sorted."""
    if "\n" not in text:
        return text
    asked = text.partition(IMAGES)[0].partition(ANSWERS)[0]
    question, *options = asked.split("\n")
    return " ".join([question, *sorted(map(_unlettered, options))]) + text[len(asked) :].replace("\n", " ")


def alike(left: str, right: str, cutoff: float, common: Common | None = None) -> float:
    """Similarity of two comparison texts: 1 − edits / length of the longer; 0 when they are not alike.

    Alike texts reach `cutoff`, show the same images, and differ in no more than MOST_CHANGED of the question
    and of what is not `common` to very many rows: one long instruction before two short questions does not
    make them the same. Options may have changed places. Texts too short for a slip to be told from another
    meaning are alike only when equal.
    """
    left, _, left_images = left.partition(IMAGES)
    right, _, right_images = right.partition(IMAGES)
    if left_images != right_images:
        return 0.0
    if left != right and _is_short(left) and _is_short(right):
        return 0.0
    similarity = Levenshtein.normalized_similarity(left, right, score_cutoff=cutoff)
    if not similarity and 0 < left.count("\n") <= MOST_PARTS:
        left, right = _rearranged(left, right)
        similarity = Levenshtein.normalized_similarity(left, right, score_cutoff=cutoff)
    if not similarity or similarity == 1:
        return similarity
    edits = [op for op in Levenshtein.opcodes(left, right) if op.tag != "equal"]
    removed = [(op.src_start, op.src_end, op.dest_end - op.dest_start) for op in edits]
    added = [(op.dest_start, op.dest_end, op.src_end - op.src_start) for op in edits]
    question = re.split(rf"[\n{ANSWERS}]", left, maxsplit=1)[0]
    if _rewritten(removed, [(0, len(question))]):
        return 0.0
    if common and (_rewritten(removed, _own(common(left))) or _rewritten(added, _own(common(right)))):
        return 0.0
    return similarity


def _is_short(text: str) -> bool:
    return len(text) < LEAST_BYTES and len(text.encode("utf-8", "surrogatepass")) < LEAST_BYTES


def same_answer(left: str, right: str, cutoff: float) -> bool:
    """Whether two alike comparison texts also give the same answer; if not they contradict each other."""
    asked_left, _, said_left = left.partition(IMAGES)[0].partition(ANSWERS)
    asked_right, _, said_right = right.partition(IMAGES)[0].partition(ANSWERS)
    if said_left == said_right:
        return True
    if said_left in map(_unlettered, asked_right.split("\n")[1:]):
        return False  # the other option
    if said_right in map(_unlettered, asked_left.split("\n")[1:]):
        return False
    longest = max(len(said_left), len(said_right))
    if longest > SHORT_ANSWER:
        allowed = int(MOST_CHANGED * longest)
    elif _words_differ(said_left, said_right):
        return False
    else:
        allowed = max(int((1 - cutoff) * longest), 1 if longest >= 4 else 0)
    return Levenshtein.distance(said_left, said_right, score_cutoff=allowed) <= allowed


def _text(row: Row, answers: bool) -> str:
    closed = isinstance(row, Example) and bool(row.options)
    asked: list[str] = []
    said: list[str] = []
    for message in _turns(row):
        if message.role == "user":
            asked += _parts(message.content, closed)
        elif message.role != "system":
            said.append(_said(message, closed))
    if not asked:
        asked, said = said, []
    pieces = normalised_all([*asked, *(said if answers else ())])
    text = "\n".join(pieces[: len(asked)])
    if answers and said:
        text += ANSWERS + "\n".join(pieces[len(asked) :])
    return text + IMAGES + "\n".join(row.images) if row.images else text


def _turns(row: Row) -> tuple[Message, ...]:
    if isinstance(row, Example):
        return row.messages
    return (*row.prompt, *(side for side in (row.chosen, row.rejected) if side is not None))


def _parts(content: str, closed: bool) -> list[str]:
    """A user turn's question and the options it lists; without the line after those of a closed question."""
    parts = OPTION.split(content) if "\n" in content else [content]
    if closed and len(parts) > 2:
        parts[-1] = parts[-1].rpartition("\n")[0] or parts[-1]
    return parts if parts[0].strip() else parts[1:]


def _said(message: Message, closed: bool) -> str:
    mark = LETTER.match(message.content) if closed else None
    calls = (f" {call.name} {call.arguments}" for call in message.tool_calls)
    return "".join([message.content[mark.end() if mark else 0 :], *calls])


def _unlettered(option: str) -> str:
    return option[2:] if LISTED.match(option) else option


def _rearranged(left: str, right: str) -> tuple[str, str]:
    """Both texts without the options' letters, the options of `right` in the order of those of `left`."""
    asked_left, *said_left = re.split(rf"(?={ANSWERS})", left, maxsplit=1)
    asked_right, *said_right = re.split(rf"(?={ANSWERS})", right, maxsplit=1)
    first, *mine = asked_left.split("\n")
    other_first, *others = asked_right.split("\n")
    mine, others = list(map(_unlettered, mine)), list(map(_unlettered, others))
    placed = []
    for option in mine[: len(others)]:
        nearest = min(others, key=lambda other: Levenshtein.distance(option, other))
        others.remove(nearest)
        placed.append(nearest)
    left = "\n".join([first, *mine]) + "".join(said_left)
    return left, "\n".join([other_first, *placed, *others]) + "".join(said_right)


def _words_differ(left: str, right: str) -> bool:
    """Whether two texts differ by a number or have another word in a place: two letters, or one ideograph."""
    if re.findall(r"\d+", left) != re.findall(r"\d+", right):
        return True
    for op in Levenshtein.opcodes(left, right):
        if op.tag == "replace":
            old, new = left[op.src_start : op.src_end], right[op.dest_start : op.dest_end]
            if min(len(old), len(new)) > 1 or (IDEOGRAPH.match(old) and IDEOGRAPH.match(new)):
                return True
    return False


def _own(common: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The stretches of a text that are not boilerplate; none when there is no boilerplate."""
    if not common.any():
        return []
    edges = np.flatnonzero(np.diff(np.concatenate([[True], common, [True]]).astype(np.int8)))
    return [(start, end) for start, end in edges.reshape(-1, 2).tolist() if end - start >= OWN_RUN]


def _rewritten(edits: Iterable[tuple[int, int, int]], spans: list[tuple[int, int]]) -> bool:
    """Whether more than MOST_CHANGED of the spans is edited; an edit is (from, to, replaced by so many)."""
    edited = sum(
        max(min(stop, end) - max(begin, start), size if start <= begin <= end else 0, 0)
        for begin, stop, size in edits
        for start, end in spans
    )
    return edited > max(1, MOST_CHANGED * sum(end - start for start, end in spans))
