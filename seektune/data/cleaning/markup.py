"""The HTML filter: known tags and entities become plain text; what only looks like a tag stays."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import unescape
from types import MappingProxyType

from seektune.data.cleaning.filters import split_code

# Names that are also words or letters count only where both the opening and the closing tag are there.
_BREAKS = (
    "br center dd div dl dt fieldset figcaption h[1-6] hr html li nav ol pre tbody tfoot thead tr table ul"
)
_BREAKING_WORDS = "article aside blockquote body figure footer form head header legend main p section title"
_CELLS = "td th"
_INLINE = "abbr acronym bdi bdo col colgroup dfn em iframe img ins kbd nobr noscript o:p samp span svg tt wbr"
_INLINE_WORDS = "a b big button caption cite code del font i label mark q s small strike strong u var video"


def _any_of(*names: str) -> str:
    return "|".join(" ".join(names).split())


_BREAK = re.compile(_any_of(_BREAKS, _BREAKING_WORDS))
_WORD = re.compile(_any_of(_BREAKING_WORDS, _INLINE_WORDS))
_ATTRIBUTES = r"(?:\s+[A-Za-z_:@][\w:.@-]*(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s\"'<>=`]+))?)*\s*/?"

_HIDDEN = tuple(
    (re.compile(opening, re.IGNORECASE), re.compile(closing, re.IGNORECASE))
    for opening, closing in (
        ("<!--", "-->"),
        ("<!doctype", ">"),
        (r"<script\b", r"</script\s*>"),
        (r"<style\b", r"</style\s*>"),
    )
)
_SCRIPTED = re.compile(r"<(sup|sub)\b[^<>]*>([^<>]{1,40})</\1\s*>", re.IGNORECASE)
_TAG = re.compile(
    rf"`[^`\n]*`|<(/?)({_any_of(_BREAKS, _BREAKING_WORDS, _CELLS, _INLINE, _INLINE_WORDS)}){_ATTRIBUTES}>",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_NAME = re.compile(r"<(/?[a-z0-9:]+)")
_BREAK_RUN = re.compile(r"(?<![ \t])[ \t]*\n(?:[ \t]*\n)+")

_RAISED: Mapping[str, str] = MappingProxyType(
    dict(zip("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ", strict=True))
)
_LOWERED: Mapping[str, str] = MappingProxyType(dict(zip("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎", strict=True)))


def html(text: str) -> str:
    """Without HTML: tags go, block ends become line feeds, cells tabs, entities their characters.

    Only real tag names are tags, one that is also a word or a letter only where it is opened and closed:
    `p<0.05`, `a<b`, `<image>` and `<think>` stay. `10<sup>9</sup>` becomes 10⁹, never 109. Code (fenced,
    `inline`) stays.
    """
    if "<" not in text and "&" not in text:
        return text
    return "".join(part if code else _plain(part) for part, code in split_code(text))


def _plain(text: str) -> str:
    if "<" in text:
        before = text
        names = set(_NAME.findall(text.lower()))
        paired = {name for name in names if f"/{name}" in names}
        for opening, closing in _HIDDEN:
            text = _without(text, opening, closing)
        text = _SCRIPTED.sub(_scripted, text)
        text = _TAG.sub(lambda match: _replaced(match, paired), text)
        if text != before:
            text = _BREAK_RUN.sub("\n\n", text)
    return _ENTITY.sub(_character, text) if "&" in text else text


def _without(text: str, opening: re.Pattern[str], closing: re.Pattern[str]) -> str:
    """Without every part from an opening to its closing; in time linear in the text, unlike one regex."""
    parts, end = [], 0
    while (start := opening.search(text, end)) and (stop := closing.search(text, start.end())):
        parts.append(text[end : start.start()])
        end = stop.end()
    return "".join([*parts, text[end:]])


def _replaced(tag: re.Match[str], paired: set[str]) -> str:
    """What stands for one tag; `paired` are the names that are both opened and closed."""
    if tag[2] is None:
        return tag[0]  # inline code
    name = tag[2].lower()
    if _WORD.fullmatch(name) and name not in paired:
        return tag[0]
    if name in ("td", "th"):
        return "\t" if tag[1] else ""
    return "\n" if _BREAK.fullmatch(name) else ""


def _scripted(match: re.Match[str]) -> str:
    """A superscript or subscript in Unicode's own signs, or with ^ where there are none."""
    raised, content = match[1].lower() == "sup", match[2].strip()
    signs = _RAISED if raised else _LOWERED
    if all(sign in signs for sign in content):
        return "".join(map(signs.__getitem__, content))
    return f"^{content}" if raised and len(content) == 1 else f"^({content})" if raised else content


def _character(entity: re.Match[str]) -> str:
    character = unescape(entity[0])
    return " " if character == "\xa0" else character
