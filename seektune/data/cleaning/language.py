"""Which language a text is in, from its scripts and its commonest words: microseconds, no model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

UNDETERMINED = "und"
"""The answer for numbers, formulas, code and texts too short to tell."""

SAMPLE = 1000
"""Characters of a text that are looked at."""

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KANA = "\u3041-\u3096\u309d-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_HAN_RUN, _KANA_SIGN = re.compile(f"[{_HAN}]+"), re.compile(f"[{_KANA}]")
_NO_LETTER = re.compile(r"[\W\d_]+")
# No lone capitals: they name options and vitamins.
_WORD = re.compile(r"[^\W\d_]{2,}|(?<![^\W_])[a-zàèéóæ](?![^\W_])")
_UNITS = re.compile(
    rf"(?P<han>[{_HAN}]+)|(?P<kana>[{_KANA}]+)"
    r"|(?P<hangul>[\u1100-\u11ff\u3130-\u318f\uac00-\ud7af]+)"
    r"|(?P<latin>[A-Za-z\u00c0-\u024f\u1e00-\u1eff]{2,})"
    r"|(?P<cyrillic>[\u0400-\u052f]{2,})"
    r"|(?P<greek>[\u0370-\u03ff\u1f00-\u1fff]{2,})"  # one letter alone is α in a formula, A before an option
    r"|(?P<arabic>[\u0620-\u06ff\u0750-\u077f\u08a0-\u08ff]{2,})"
    r"|(?P<he>[\u05d0-\u05ea]{2,})"
    r"|(?P<th>[\u0e00-\u0e7f]+)"
    r"|(?P<hi>[\u0900-\u097f]+)|(?P<bn>[\u0980-\u09ff]+)|(?P<gu>[\u0a80-\u0aff]+)"
    r"|(?P<ta>[\u0b80-\u0bff]+)|(?P<te>[\u0c00-\u0c7f]+)|(?P<kn>[\u0c80-\u0cff]+)"
    r"|(?P<ml>[\u0d00-\u0d7f]+)|(?P<si>[\u0d80-\u0dff]+)"
    r"|(?P<lo>[\u0e80-\u0eff]+)|(?P<bo>[\u0f00-\u0fff]+)|(?P<my>[\u1000-\u109f]+)"
    r"|(?P<ka>[\u10a0-\u10ff]+)|(?P<hy>[\u0531-\u058f]+)|(?P<am>[\u1200-\u137f]+)|(?P<km>[\u1780-\u17ff]+)"
)

_CHARACTERS_A_WORD: Mapping[str, float] = MappingProxyType(
    {"han": 1.7, "kana": 3.0, "th": 5.0, "lo": 5.0, "km": 5.0, "my": 5.0, "bo": 3.0}
)
"""Scripts written without spaces are counted in characters: so many make a word."""

_COMMON_WORDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        name: frozenset(words.split())
        for name, words in {
            "en": "the of and to in is was are were that it for with as on be by this which what who how "
            "when where why not or from at have has had but his her he she they you your their its an a all "
            "can will would there been if more no about than most following does do did into out so we i my "
            "just like only one some any also then these those should after between many name very its off",
            "de": "der die das und ist nicht ein eine einen einem einer den dem des mit von für auf im ich "
            "sie es wir zu bei nach wie auch sich werden wird wurde sind oder aus aber kann haben hat zum "
            "zur durch über man was wenn nur noch",
            "fr": "le la les de des du et est une un que qui dans pour pas sur avec ce cette ces il elle "
            "nous vous sont au aux par plus ne se être avoir mais ou où comme je son ses leur été très",
            "es": "el la los las de y es que en un una por con para no se del al su sus como más pero este "
            "esta son lo le ha fue ser está muy también hay porque cuando donde qué cuál",
            "pt": "o a os as de e é que em um uma por com para não se do da dos das no na nos nas ao à seu "
            "sua como mais mas este esta são foi ser está muito também há quando onde você isso pelo pela",
            "it": "il lo la i gli le di e è che in un una per con non si del della dei delle al alla nel "
            "nella sono come più ma questo questa anche ha essere stato dal dalla quando cosa perché ed",
            "nl": "de het een en is van dat in te niet op met voor zijn aan er om ook als bij maar uit door "
            "over naar ze hij wij kan deze dit wordt worden heeft hebben was waren of dan wat waar",
            "pl": "i w na z się nie jest że do to o jak po co ale od za przez dla są oraz być czy przy tym "
            "który która które może tak jego jej był była",
            "tr": "ve bir bu da de için ile olarak çok daha olan gibi ne o en var mı değil ama sonra kadar "
            "her olduğu ya şu ise hem",
            "sv": "och att det som är en ett på för av med den till inte har om de i jag var kan från vid så "
            "men eller när vi ska",
            "id": "yang dan di ini itu dengan untuk dari pada adalah tidak dalam akan ke ada atau juga saya "
            "oleh sebagai dapat anda bisa karena telah",
        }.items()
    }
)

_OWNERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        word: tuple(name for name, words in _COMMON_WORDS.items() if word in words)
        for word in frozenset[str]().union(*_COMMON_WORDS.values())
    }
)

_VIETNAMESE = re.compile(r"[ăđơưĂĐƠƯ\u1ea0-\u1ef9]")
_UKRAINIAN = re.compile(r"[іїєґІЇЄҐ]")
_URDU = re.compile(r"[ٹڈڑںےھ]")
_PERSIAN = re.compile(r"[پچژگکی]")


def language(text: str) -> str:
    """The ISO 639-1 code of the language most of `text` is in, or `und` when that cannot be told.

    The first `SAMPLE` characters decide. Scripts are weighed in words, so a Chinese sentence full of
    abbreviations stays Chinese. Cyrillic is Russian or Ukrainian, Arabic script Arabic, Persian or Urdu:
    their smaller neighbours are not told apart.
    """
    head = text[:SAMPLE]
    if head.isascii():
        return _latin(head)
    letters = _NO_LETTER.sub("", head)
    rest = _HAN_RUN.sub("", letters)
    if len(rest) * 2 < len(letters) and not _KANA_SIGN.search(rest):
        return "zh"
    weights = _weights(head)
    if kana := weights.get("kana"):
        # Han within Japanese counts for Japanese; a stray kana in a Chinese text does not.
        signs = kana * _CHARACTERS_A_WORD["kana"]
        script = "kana" if signs > 0.12 * (len(letters) - len(rest) + signs) else "han"
        weights[script] = kana + weights.get("han", 0.0)
    named = (_named(script, head) for script in sorted(weights, key=weights.__getitem__, reverse=True))
    return next((name for name in named if name != UNDETERMINED), UNDETERMINED)


def _weights(text: str) -> dict[str, float]:
    """How much of each script there is, in words."""
    weights: dict[str, float] = {}
    for match in _UNITS.finditer(text):
        script = match.lastgroup or ""
        characters = _CHARACTERS_A_WORD.get(script)
        weight = 1.0 if characters is None else (match.end() - match.start()) / characters
        weights[script] = weights.get(script, 0.0) + weight
    return weights


def _named(script: str, text: str) -> str:
    match script:
        case "han":
            return "zh"
        case "kana":
            return "ja"
        case "hangul":
            return "ko"
        case "greek":
            return "el"
        case "latin":
            return _latin(text)
        case "cyrillic":
            return "uk" if _UKRAINIAN.search(text) else "ru"
        case "arabic":
            return "ur" if _URDU.search(text) else "fa" if _PERSIAN.search(text) else "ar"
    return script


def _latin(text: str) -> str:
    """The language whose common words are the most; a word that several share counts in part."""
    if len(_VIETNAMESE.findall(text)) * 12 > len(text):
        return "vi"
    scores: dict[str, float] = {}
    seen: dict[str, set[str]] = {}
    for word in map(str.lower, _WORD.findall(text)):
        for name in (owners := _OWNERS.get(word, ())):
            scores[name] = scores.get(name, 0.0) + 1.0 / len(owners)
            seen.setdefault(name, set()).add(word)
    # English full of abbreviations (IL-1, SI, non) repeats a word of another language: one decides nothing.
    sure = [name for name in scores if name == "en" or len(seen[name]) > 1]
    return max(sure, key=lambda name: (scores[name], name == "en"), default=UNDETERMINED)
