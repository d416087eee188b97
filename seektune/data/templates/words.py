"""Texts become tokens word by word, and a word met before costs a look into a dictionary.

Most of a tokenizer's work is to find where words begin and to build them. One place is sure for every
tokenizer that passes the test below: a single space between two visible ASCII signs begins a word, whatever
stands further away. Texts are cut there; the tokenizer sees what opens a text and the words it has not seen
lately.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import chain, product
from typing import Any

Words = Callable[[Sequence[str]], list[list[int]]]
"""Texts → their token ids."""

WORDS = 1 << 16
"""Words remembered; then we start anew."""

LONGEST = 16  # characters of a word worth remembering

_CUT = re.compile(r" (?<=[!-~] )(?=[!-~])")
_SIGNS = [chr(code) for code in range(ord("!"), ord("~") + 1)]
_PROBE = "  x" + "".join(f"{left} {right}x" for left, right in product(_SIGNS, _SIGNS)) + "\n\n  "


def word_encoder(backend: Any) -> Words | None:
    """What gives the ids of texts as `backend` (of the tokenizers library) does, without special tokens.

    None for a tokenizer whose words may begin elsewhere.
    """
    if not _begins_words_at_cuts(backend):
        return None
    known: dict[str, list[int]] = {}

    def encode(texts: Sequence[str]) -> list[list[int]]:
        split = [_CUT.split(text) for text in texts]
        openings = [words.pop(0) for words in split]
        new = list(set[str]().union(*split).difference(known))
        asked = backend.encode_batch_fast([*openings, *map(" ".__add__, new)], add_special_tokens=False)
        known.update(zip(new, (encoding.ids for encoding in asked[len(openings) :]), strict=True))
        found = [
            list(chain(opening.ids, chain.from_iterable(map(known.__getitem__, words))))
            for opening, words in zip(asked, split, strict=False)
        ]
        for word in new:
            if len(word) > LONGEST:
                del known[word]
        if len(known) > WORDS:
            known.clear()
        return found

    return encode


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
