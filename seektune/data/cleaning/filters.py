"""Text filters: each takes a text and returns it, or what is left of it; a clean text comes back as it is.

Every filter first asks a cheap question (one scan or a few substring searches), for most texts are clean.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from unicodedata import category

from ftfy import TextFixerConfig, fix_encoding
from ftfy.badness import badness

_ENCODING_ONLY = TextFixerConfig(unescape_html=False, replace_lossy_sequences=False, explain=False)
_SIGNS = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u2064\u2066-\u2069\ufeff"
_ANY_INVISIBLE = re.compile(f"[{_SIGNS}]")  # no astral characters: with them the search is twice as slow
_TAG = re.compile("[\U000e0000-\U000e007f]")
_INVISIBLE = re.compile(
    "\U0001f3f4[\U000e0020-\U000e007f]+"  # the flags of England, Scotland, Wales
    f"|[{_SIGNS}\U000e0001\U000e0020-\U000e007f]"
)
_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff]")
_DIRECTIONS = "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_JOINING = re.compile("[\u0600-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\ufb50-\ufdff\ufe70-\ufefc]")
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
_PICTURE = re.compile("[\u00a9\u00ae\u203c-\u3299\ufe0f\U0001f000-\U0001faff]")

FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})[^\n]*\n.*?(?:^[ \t]*\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
"""A fenced code block of Markdown, with its fences; an unclosed one reaches to the end."""

_ODD_SPACES = ("\t", "\u3000", "\xa0")
_BLANK_LINES = re.compile(r"\n{4,}")
_LEADING_BLANK_LINES = re.compile(r"\A(?:[^\S\n]*\n)+")

_MOJIBAKE_START = re.compile(
    "[\x80-\x9fÂ-ôĂ-ž√‚├ΓΒΞΟβāвВГРС]"
    "(?:(?<=[\x80-\x9f])|(?<=[ÃÂ]) |(?<=[Â-ôĂ-ž‚├ΓΒΞΟβāв])[\x80-ž\u02c6-\u02dd\u2013-\u203a€™ЂÇ⌐]"
    "|(?<=√)[±∂†≠®™´≤≥¥µø©]|(?<=[ВГРС])[^\x00-\x7fА-я])"
)
_AMBIGUOUS = re.compile(
    "(?<![À-ß][\x80-\xbf\u0152-\u2122])([À-ÁÄ-ß][\xa0-\xbf]|√[±∂†≠≤≥µø]|≈[°¢])(?![À-ß][\x80-\xbf\u0152-\u2122])"
)
"""Å², ×³, Ø±, √≥: what would be one wrong letter is two right signs in a formula."""

_USUAL = re.compile(
    "[\n\xa0-\u017fΑ-ωЁА-яё\u05d0-\u05ea\u0600-\u06ff\u0900-\u097f\u0e00-\u0e7f\u1ea0-\u1ef9"
    "\u2002-\u205f\u2070-\u20bf\u2100-\u2bff\u3000-\u9fff\uac00-\ud7af\uf900-\ufb06\ufe0f\uff00-\uffef"
    "\U0001f000-\U0001faff\U00020000-\U0003ffff]"
)
"""Characters a repair may bring in; a rarer one says that the text was right as it was."""

_SHORT_LINE = 120
_BOILERPLATE = re.compile(
    r"click here\b.*|(?:please )?(?:subscribe|sign up) (?:to|for) (?:our|the|my)\b.*"
    r"|(?:this|our) (?:web)?site uses cookies\b.*|we use cookies\b.*|(?:accept|manage) (?:all )?cookies\.?"
    r"|.*\ball rights reserved\.?|(?:copyright|©|\(c\)) ?(?:©|\(c\))? ?(?:19|20)\d\d\b.*"
    r"|(?:share|follow us) on (?:facebook|twitter|x|linkedin|instagram|wechat|weibo)\b.*"
    r"|(?:read more|learn more|back to top|skip to (?:main )?content|advertisement|privacy policy"
    r"|terms of (?:use|service))\.?"
    r"|.*(?:关注|扫描?|长按|添加|搜索).{0,12}(?:公众号|二维码|微信号).*|微信公众号[:：].*"
    r"|(?:点击(?:这里|此处|下方|上方|阅读原文|蓝字)|阅读原文|点击查看(?:更多|全文|详情)).{0,40}"
    r"|(?:未经(?:授权|许可|允许)|转载请|欢迎转载|本文(?:来源|转自|版权)|版权所有|责任编辑[:：]).*"
    r"|(?:免责声明[:：].*|上一篇[:：].*|下一篇[:：].*|返回(?:顶部|首页)|分享到[:：].*)",
    re.IGNORECASE,
)
_MARKS = re.compile(r"<image>|</?think>|[^\w\s]")


def control_characters(text: str) -> str:
    """Without C0 and C1 controls, terminal escapes and characters that show nothing and join nothing.

    Line feed, tab and carriage return stay; form feeds and Unicode's line separators become line feeds.
    Joiners stay where scripts and emoji need them, direction marks in text that runs from right to left.
    """
    if text.replace("\n", "").isprintable() or not (_ANY_INVISIBLE.search(text) or _TAG.search(text)):
        return text
    text = _ESCAPE_SEQUENCE.sub("", text)
    right_to_left = _RIGHT_TO_LEFT.search(text) is not None
    return _INVISIBLE.sub(lambda match: _visible(match, right_to_left), text)


def _visible(match: re.Match[str], right_to_left: bool) -> str:
    """What stays of one invisible character, by its neighbours."""
    sign, text = match[0], match.string
    before, after = text[max(match.start() - 1, 0) : match.start()], text[match.end() : match.end() + 1]
    match sign:
        case "\x0b" | "\x0c" | "\x85" | "\u2028":
            return "\n"
        case "\u2029":
            return "\n\n"
        case "\u200b":
            keep = bool(_UNSPACED.match(before) and _UNSPACED.match(after))
        case "\u200c" | "\u200d":
            pictures = _PICTURE.match(before) and _PICTURE.match(after)
            keep = bool(_JOINING.match(before) or (sign == "\u200d" and pictures))
        case _:
            keep = sign[0] == "\U0001f3f4" or (right_to_left and sign in _DIRECTIONS)
    return sign if keep else ""


def whitespace(text: str) -> str:
    """With `\\n` line ends, no spaces at line ends, at most two blank lines, none around the text.

    Indentation, spaces within lines, full-width indents of paragraphs and fenced code stay as they are;
    a text of one line loses leading ASCII spaces.
    """
    if not _has_loose_whitespace(text):
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = "".join(part if code else _tidy(part) for part, code in split_code(text))
    text = _LEADING_BLANK_LINES.sub("", text).rstrip()
    return text if "\n" in text else text.lstrip(" \t")


def _has_loose_whitespace(text: str) -> bool:
    # One character is found ten times faster than two, and tabs and odd spaces are rare.
    if text[:1].isspace() or text[-1:].isspace() or "\r" in text:
        return True
    return "\n" in text and (
        " \n" in text
        or "\n\n\n\n" in text
        or any(space in text and f"{space}\n" in text for space in _ODD_SPACES)
    )


def _tidy(text: str) -> str:
    text = "\n".join(map(str.rstrip, text.split("\n")))
    return _BLANK_LINES.sub("\n\n\n", text) if "\n\n\n\n" in text else text


def split_code(text: str) -> Iterator[tuple[str, bool]]:
    """The parts of a text in order, each with whether it is a fenced code block."""
    end = 0
    if "```" in text or "~~~" in text:
        for block in FENCE.finditer(text):
            yield text[end : block.start()], False
            yield block[0], True
            end = block.end()
    yield text[end:], False


def mojibake(text: str) -> str:
    """With a wrong decoding undone (`Ã©` → `é`) where that is certain, and nothing else.

    ftfy decides, with all its rewriting of quotes, widths, ligatures and entities off; a lone pair that is
    also a formula (`Å²`) is left alone.
    """
    if text.isascii() or not _MOJIBAKE_START.search(text):
        return text
    return "".join(map(_decoded_anew, _AMBIGUOUS.split(text)))


def _decoded_anew(text: str) -> str:
    evidence = 0 if _AMBIGUOUS.fullmatch(text) else badness(text)
    if not evidence:
        return text
    fixed = fix_encoding(text, _ENCODING_ONLY)
    usual = all(_USUAL.match(sign) for sign in set(fixed) - set(text))
    return fixed if usual and badness(fixed) < evidence else text


def boilerplate(text: str) -> str:
    """Without whole short lines that are a web page's furniture: cookies, copyright, sharing, 公众号."""
    lines = text.split("\n")
    kept = [line for line in lines if not _is_furniture(line.strip(" \t\u3000*#>-|·•"))]
    return text if len(kept) == len(lines) else "\n".join(kept)


def _is_furniture(line: str) -> bool:
    return bool(line) and len(line) <= _SHORT_LINE and _BOILERPLATE.fullmatch(line) is not None


def punctuation(text: str) -> str:
    """Without any punctuation or sign: destroys units, decimals and formulas; here for those who need it."""
    return _MARKS.sub(
        lambda match: match[0] if len(match[0]) > 1 or category(match[0])[0] in "MC" else "", text
    )
