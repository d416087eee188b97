"""Answers made wrong on purpose: a number, a negation or a sentence changed, each by name."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

NAMES = ("number_changed", "negation_flipped", "sentence_removed", "sentence_swapped")

_BREAKS = re.compile(
    r"[。！？]+[”」』）]*|(?:(?<!\be\.g)(?<!\bi\.e)(?<!\bDr)(?<!\bvs)(?<!\bal)(?<!\d)\.|[!?])[\"')\]]*(?=\s)|\n"
)
_NUMBER = re.compile(  # not in 5-HT, B12, 120/80, 3-5, 10^9, 1,000, [12], "1." of a list
    r"(?<![A-Za-z0-9_.,:/^~\[–—-])\d{1,6}(?:\.\d{1,4})?"
    r"(?![\d\]:/^~–—-]|\.\d|,\d|[至到]\d|[A-Za-z]+\d|(?:st|nd|rd|th)\b|[.)、．）](?=\s|[^\d\s]))"
)
_DENIED = re.compile(
    r"\b(?P<verb>is|are|was|were|do|does|did|can|could|should|would|will|must|may|has|have) not\b"
    r"|\b(?P<can>can)(?:not|'t|’t)\b|\b(?P<short>is|are|was|were|do|does|did|could|should|would|has|have)n['’]t\b"
    r"|\b(?P<never>never)\b|\b(?P<without>without)\b"
    r"|(?<![不无没非未否是会能可应])不(?=可以|应该|能够|需要|属于|建议|适合|推荐|容易|常见|存在|引起|导致"
    r"|[会能是可宜]|应(?!期))"
    r"|(?<!有)(?P<none>没有)|(?P<unable>无法)|(?P<needless>无需)"
)
_POSITIVE = (
    ("never", "always"),
    ("without", "with"),
    ("none", "有"),
    ("unable", "可以"),
    ("needless", "需要"),
)
_CLAIMED = re.compile(
    r"\b(?P<can>can)\b(?! not)|\b(?P<verb>is|are|was|were|could|should|would|will|must)\b(?! not)"
    r"|\b(?P<always>always)\b"
    r"|(?<![不无没非未否是])(?P<han>可以|应该|能够|需要|属于|建议|适合|推荐|容易|常见|存在|引起|导致)"
    r"|(?<=[\u4e00-\u9fff）])(?<![不但于可还总凡若要就也都只而])(?P<be>是)(?=由|因|一种|最|指|常见)"
)

_NEGATIVE = re.compile(r"\b(?:no|not|none|nor|never|neither)\b[^.;:]*\Z", re.I)


def corruptions(text: str, foreign: str, generator: random.Random) -> Iterator[tuple[str, str]]:
    """(name, wrong text) for each of `NAMES` that the text allows, in random order.

    `foreign` is an answer to another question, a sentence of which may take the place of one of this text's.
    Reasoning (`<think>…</think>`) is left as it is. What changes is one place; the rest stays verbatim.
    """
    head, closing, answer = text.rpartition("</think>")
    for name in generator.sample(NAMES, len(NAMES)):
        if name == "number_changed":
            changed = _other_number(answer, generator)
        elif name == "negation_flipped":
            changed = _flipped(answer, generator)
        elif "```" in answer:
            continue  # code has no sentences
        elif name == "sentence_removed":
            changed = _removed(answer, generator)
        else:
            changed = _swapped(answer, foreign.rpartition("</think>")[2], generator)
        if changed and changed != answer:
            yield name, head + closing + changed


def _other_number(text: str, generator: random.Random) -> str:
    places = list(_NUMBER.finditer(text))
    if not places:
        return ""
    place = generator.choice(places)
    digits = place[0]
    decimals = len(digits.partition(".")[2])
    value = float(digits)
    values = [value * 2, value * 10, value / 2, value + 3 if value < 10 else value * 3]
    share = text[place.end() :].lstrip()[:1] in ("%", "％") and value <= 100
    texts = {f"{value:.{decimals}f}" for value in values if not share or value <= 100}
    texts -= {digits, f"{0:.{decimals}f}"}
    if not texts:
        return ""
    return text[: place.start()] + generator.choice(sorted(texts)) + text[place.end() :]


def _flipped(text: str, generator: random.Random) -> str:
    places = [*_DENIED.finditer(text), *filter(_alone, _CLAIMED.finditer(text))]
    if not places:
        return ""
    place = generator.choice(places)
    new = _affirmed(place) if place.re is _DENIED else _negated(place)
    return text[: place.start()] + new + text[place.end() :]


def _alone(place: re.Match[str]) -> bool:
    """Whether no other negation stands just before: two of them would deny nothing."""
    return not _NEGATIVE.search(place.string[max(0, place.start() - 30) : place.start()])


def _affirmed(place: re.Match[str]) -> str:
    verb = place["verb"] or place["can"] or place["short"]
    return verb or next((new for name, new in _POSITIVE if place[name]), "")


def _negated(place: re.Match[str]) -> str:
    if place["can"]:
        return "cannot"
    if place["always"]:
        return "never"
    return f"{place['verb']} not" if place["verb"] else "不" + place[0]


def _sentences(text: str) -> list[str]:
    """The text cut after each sentence, white space with the sentence before it; joined they are the text."""
    ends = [found.end() for found in _BREAKS.finditer(text)]
    parts: list[str] = []
    start = 0
    for end in [*ends, len(text)]:
        if end > start:
            parts.append(text[start:end])
            start = end
    return parts


def _told(sentences: list[str]) -> list[int]:
    """The sentences that say something: four letters or more."""
    return [index for index, sentence in enumerate(sentences) if len(re.findall(r"[^\W_]", sentence)) >= 4]


def _removed(text: str, generator: random.Random) -> str:
    sentences = _sentences(text)
    told = _told(sentences)
    if len(told) < 3:
        return ""
    gone = generator.choice(told)
    return "".join(sentences[:gone] + sentences[gone + 1 :]).strip()


def _swapped(text: str, foreign: str, generator: random.Random) -> str:
    sentences, others = _sentences(text), _sentences(foreign)
    told, strange = _told(sentences), _told(others)
    if len(told) < 2 or not strange:
        return ""
    place = generator.choice(told)
    old, new = sentences[place], others[generator.choice(strange)].strip()
    before = old[: len(old) - len(old.lstrip())]
    after = old[len(old.rstrip()) :]
    return "".join([*sentences[:place], before, new, after, *sentences[place + 1 :]])
