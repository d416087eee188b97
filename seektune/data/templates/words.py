"""Texts become tokens word by word, and a word met before costs a look into a dictionary.

Most of a tokenizer's work is to find where words begin and to build them. One place is sure for every
tokenizer that passes the test below: a single space between two visible ASCII signs begins a word, whatever
stands further away. Texts are cut there; the tokenizer sees what opens a text and the words it has not seen
lately.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Words = Callable[[Sequence[str]], list[Ids]]
"""Texts → their token ids."""

WORDS = 1 << 16
"""Words remembered; then we start anew."""

LONGEST = 16  # characters of a word worth remembering
TOGETHER = 64  # new words in one text: asking for one alone costs twice as much

_CUT = re.compile(r" (?<=[!-~] )(?=[!-~])")
_SIGNS = [chr(code) for code in range(ord("!"), ord("~") + 1)]
_PROBE = "  x" + "".join(f"{left} {right}x" for left, right in product(_SIGNS, _SIGNS)) + "\n\n  "


def word_encoder(backend: Any) -> Words | None:
    """What gives the ids of texts as `backend` (of the tokenizers library) does, without special tokens.

    None for a tokenizer whose words may begin elsewhere.
    """
    if not _begins_words_at_cuts(backend):
        return None
    known: dict[str, bytes] = {}  # of int32: joined without a look at each number
    between = _separator(backend)

    def encode(texts: Sequence[str]) -> list[Ids]:
        split = [_CUT.split(text) for text in texts]
        openings = [words.pop(0) for words in split]
        new = list(set[str]().union(*split).difference(known))
        known.update(zip(new, _each(backend, [f" {word}" for word in new], between), strict=True))
        found = [
            np.frombuffer(b"".join([opening.tobytes(), *map(known.__getitem__, words)]), np.int32)
            for opening, words in zip(_ids(backend, openings), split, strict=True)
        ]
        for word in new:
            if len(word) > LONGEST:
                del known[word]
        if len(known) > WORDS:
            known.clear()
        return found

    return encode


def _ids(backend: Any, texts: list[str]) -> list[Ids]:
    asked = backend.encode_batch_fast(texts, add_special_tokens=False)
    return [np.array(encoding.ids, np.int32) for encoding in asked]


def _each(backend: Any, words: list[str], between: tuple[int, str] | None) -> Iterator[bytes]:
    """The ids of each word: many words are asked for in one text, with a control token between them."""
    token, name = between or (-1, "")
    size = TOGETHER if between else 1
    groups = [words[at : at + size] for at in range(0, len(words), size)]
    for group, ids in zip(groups, _ids(backend, list(map(name.join, groups))), strict=True):
        ends = np.flatnonzero(ids == token)
        if len(ends) != len(group) - 1:  # a word holds the control token itself
            yield from (alone.tobytes() for alone in _ids(backend, group))
            continue
        start = 0
        for end in (*ends.tolist(), len(ids)):
            yield ids[start:end].tobytes()
            start = end + 1


def _separator(backend: Any) -> tuple[int, str] | None:
    """The last control token, which is cut out of a text before anything else."""
    added = backend.get_added_tokens_decoder().items()
    return max(((number, token.content) for number, token in added if token.special), default=None)


def _begins_words_at_cuts(backend: Any) -> bool:
    splitter, normalizer = backend.pre_tokenizer, backend.normalizer
    if splitter is None or (normalizer is not None and normalizer.normalize_str(_PROBE) != _PROBE):
        return False
    added = backend.get_added_tokens_decoder().values()
    if getattr(backend.model, "dropout", None) or any(map(_reaches_out, added)):
        return False
    starts = {start for _, (start, _) in splitter.pre_tokenize_str(_PROBE)}
    return all(cut.start() in starts for cut in _CUT.finditer(_PROBE))


def _reaches_out(token: Any) -> bool:
    """Whether an added token may take the space of a cut, or look beyond it."""
    return bool(" " in token.content or token.lstrip or token.rstrip or token.single_word)
