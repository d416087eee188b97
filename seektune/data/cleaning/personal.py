"""Personal data by pattern: phone numbers, e-mail addresses, Chinese identity numbers, bank cards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_FULL_WIDTH = str.maketrans("０１２３４５６７８９＠．－＋Ｘｘ", "0123456789@.-+Xx")
_ANY_FULL_WIDTH = re.compile("[０-９＠]")
_MANY_DIGITS = re.compile(r"\d(?:[ ()（）.+-]{0,3}\d){6}")

_MAIL = re.compile(
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,5}[A-Za-z]{2,24}(?![A-Za-z0-9])"
)
_CUE = r"(?:电话|手机|座机|热线|传真|联系方式|致电|(?<![a-z])(?:(?:tele)?phone|tel|mobile|fax|call))"
_START, _END = (
    "(?<![0-9A-Za-z_])",
    "(?![0-9A-Za-z_])",
)  # not \b: Chinese stands next to a number without a space
_AREA = r"(?:010|02\d|0[3-9]\d\d)"  # of a Chinese landline
_NUMBER = re.compile(
    rf"(?P<link>https?://\S+|www\.\S+|{_START}doi:?\s?\S+|(?<![0-9A-Za-z.])10\.\d{{4,9}}/\S+)"
    rf"|{_CUE}(?:号码?|\s?no|\s?number)?[\s.:：#是为]{{0,4}}(?P<called>[+(（]?\d[\d ()（）-]{{5,17}}\d){_END}"
    rf"|{_START}(?<!\+)(?P<abroad>\+[1-9]\d{{0,2}}(?:[ -]?\(\d{{1,4}}\))?(?:[ -]?\d{{2,11}}){{1,5}}){_END}"
    rf"|{_START}(?<!\d[.,/:-])(?:"
    r"(?P<id>[1-9]\d{5}(?:18|19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[0-9X])"
    r"|(?P<card>[2-6]\d{14,18}|9558\d{12,15}"
    r"|[2-6]\d{3}(?P<gap>[ -])\d{4}(?P=gap)\d{4}(?P=gap)\d{3,4}(?:(?P=gap)\d{1,3})?)"
    r"|(?P<mobile>(?:86[ -]?)?1[3-9]\d(?:\d{8}|[ -]\d{4}[ -]\d{4}))"
    rf"|(?P<landline>(?:[(（]{_AREA}[)）] ?|{_AREA}[ -])[2-9]\d{{2,3}}[ -]?\d{{4}})"
    r"|(?P<american>(?:\([2-9]\d\d\) ?|[2-9]\d\d-)[2-9]\d\d-\d{4})"
    rf"){_END}(?!\.\d)",
    re.IGNORECASE,
)
_COUNTED = re.compile(
    r"/(?:[dmµμ]?[lg]|[mµμ升毫微])|\s?(?:[%‰个万亿元年]|(?:mg|[µu]g|ml|iu|u|cells|copies|cfu|bp)(?![a-z]))",
    re.IGNORECASE,
)
_NO_PHONE = re.compile(r"(?:19|20)\d\d ?- ?(?:19|20)\d\d|(?:19|20)\d\d-\d\d?-\d\d?|\d+0{6,}")

_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_ID_CHECKS = "10X98765432"
_SHAPES = ("link", "called", "abroad", "id", "card", "mobile", "landline", "american")


@dataclass(frozen=True, slots=True)
class Found:
    """A piece of personal data: characters [start, end) of a text; `kind` is PHONE, EMAIL, ID or CARD."""

    start: int
    end: int
    kind: str


def find(text: str) -> list[Found]:
    """What in `text` looks personal, in order; doses, laboratory values, dates, DOIs and links are not.

    Phone numbers are Chinese mobile (11 digits) and landline (area code set off) numbers, American ones,
    any with + and a country code, and those announced as one (电话：, tel.). Identity numbers and cards must
    pass their checksums.
    """
    if _ANY_FULL_WIDTH.search(text):
        text = text.translate(_FULL_WIDTH)  # one for one: places stay
    mails = [Found(*match.span(), "EMAIL") for match in _MAIL.finditer(text)] if "@" in text else []
    numbers = list(_numbers(text)) if _MANY_DIGITS.search(text) else []
    if not (mails and numbers):
        return mails or numbers
    apart = (n for n in numbers if not any(m.start < n.end and n.start < m.end for m in mails))
    return sorted([*mails, *apart], key=lambda found: found.start)


def mask(text: str) -> str:
    """The text with each piece of personal data replaced by [PHONE], [EMAIL], [ID] or [CARD]."""
    parts, end = [], 0
    for found in find(text):
        parts += [text[end : found.start], f"[{found.kind}]"]
        end = found.end
    return "".join([*parts, text[end:]]) if parts else text


def mask_json(text: str) -> str:
    """The same for JSON text (the arguments of a tool call), value by value, so that it stays JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        return mask(text)
    masked = _masked(value)
    return text if masked == value else json.dumps(masked, ensure_ascii=False)


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, int) and find(str(value)):
        return mask(str(value))
    return value


def _numbers(text: str) -> Iterator[Found]:
    for match in _NUMBER.finditer(text):
        shape = next(name for name in _SHAPES if match[name] is not None)
        if kind := _kind(shape, match[shape], text[match.end() : match.end() + 8]):
            yield Found(*match.span(shape), kind)


def _kind(shape: str, number: str, after: str) -> str:
    """What the number is, or nothing: its shape alone is not enough."""
    digits = "".join(sign for sign in number.upper() if sign.isalnum())
    match shape:
        case "link":
            return ""
        case "id" if _is_identity(digits):
            return "ID"
        case "id" | "card":
            return "CARD" if _passes_luhn(digits) else ""
        case "called":
            is_phone = 7 <= len(digits) <= 15
        case "abroad":
            is_phone = 10 <= len(digits) <= 15
        case _:
            is_phone = True
    return "PHONE" if is_phone and not _NO_PHONE.fullmatch(number) and not _COUNTED.match(after) else ""


def _is_identity(digits: str) -> bool:
    """Whether the last of the 18 signs is the checksum of the others (GB 11643: ISO 7064 mod 11-2)."""
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, digits[:17], strict=True))
    return digits[17] == _ID_CHECKS[total % 11]


def _passes_luhn(digits: str) -> bool:
    if not digits.isdecimal():
        return False
    doubled = (int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits)))
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0
