"""Closed questions become examples with lettered options: MedQA, MedMCQA, PubMedQA, CMExam, labels."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from seektune.data.formats.conversations import MARK, check_marks
from seektune.data.formats.fields import Fields, images_of, listed, shown
from seektune.types import Example, Message

QA_INSTRUCTION = "Answer with the letter and the text of the correct option."
QA_SEVERAL = "Answer with the letters and the texts of all correct options, one a line."
QA_CHINESE, QA_CHINESE_SEVERAL = "请写出正确选项的字母和内容。", "请写出所有正确选项的字母和内容，每行一项。"
DECISIONS = ("yes", "no", "maybe")
DECISION_INSTRUCTION = "Answer with yes, no or maybe."

_HAN = re.compile("[\u3400-\u9fff]")
_OPTION_LINE = re.compile(r"\s*([A-Z])\s*[.．、:：)）\s]\s*(.*)", re.DOTALL)
_BETWEEN = re.compile(r"[\s,，、;；]")
_OPTION_INLINE = re.compile(r"(?:^|(?<=\s))([A-Z])\s*[.．、:：)）]\s*")


def question(fields: Fields) -> Example:
    """A question with options; several right letters make an open answer that lists their options."""
    options = options_of(fields)
    letters = _letters(fields, options)
    answers = {letter: f"{letter}. {text}" for letter, text in options.items()}
    asked = fields.text("question")
    text = "\n".join([asked, *answers.values(), instruction(asked, several=len(letters) > 1)])
    if len(letters) == 1:
        return _closed(fields, text, tuple(answers.values()), list(options).index(letters[0]))
    return _open(fields, text, "\n".join(answers[letter] for letter in letters))


def instruction(asked: str, several: bool = False) -> str:
    """How to answer, said in the question's language."""
    if not asked.isascii() and _HAN.search(asked):
        return QA_CHINESE_SEVERAL if several else QA_CHINESE
    return QA_SEVERAL if several else QA_INSTRUCTION


def medmcqa(fields: Fields, first: int) -> Example:
    """MedMCQA's own columns; `first` is the number its `cop` gives to option a, 0 or 1."""
    options = [fields.plain(key, fields.need(key)) for key in ("opa", "opb", "opc", "opd")]
    answers = tuple(f"{letter}. {text}" for letter, text in zip("ABCD", options, strict=True))
    answer = cop_of(fields) - first
    if not 0 <= answer < 4:
        raise fields.wrong(f"`cop` is {answer + first}, but the options are {first} to {first + 3}")
    text = "\n".join([fields.text("question"), *answers, QA_INSTRUCTION])
    return _closed(fields, text, answers, answer)


def cop_of(fields: Fields) -> int:
    """MedMCQA's number of the right option, from an integer or its digits."""
    value = fields.need("cop")
    if isinstance(value, str) and value.strip() in ("-1", "0", "1", "2", "3", "4"):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise fields.wrong(f"`cop` must be the number of the right option, is {shown(value)}")
    return value


def decision(fields: Fields) -> Example:
    """A question about an abstract, answered with yes, no or maybe."""
    value = fields.need("answer")
    answer = value.strip().lower() if isinstance(value, str) else ""
    if answer not in DECISIONS:
        raise fields.wrong(f"`{fields.column('answer')}` must be yes, no or maybe, is {shown(value)}")
    context = fields.need("context")
    if isinstance(context, dict):  # the hub's layout: {"contexts": [...], "labels": [...], ...}
        context = context.get("contexts")
    parts = context if isinstance(context, list) else [context]
    if not parts or not all(isinstance(part, str) and part.strip() for part in parts):
        raise fields.wrong(
            f"`{fields.column('context')}` must be text or a list of texts, is {shown(context)}"
        )
    text = "\n\n".join([fields.text("question"), "\n".join(parts), DECISION_INSTRUCTION])
    return _closed(fields, text, DECISIONS, DECISIONS.index(answer))


def classified(fields: Fields, labels: Sequence[str]) -> Example:
    """A text with its label among `labels`, or among the record's own `options`."""
    own = fields.get("options")
    if own is not None and (not isinstance(own, list) or len(own) < 2):
        raise fields.wrong("`options` of a classification must be a list of labels")
    names = tuple(fields.plain("a label in options", value) for value in own) if own else tuple(labels)
    label = fields.plain(f"`{fields.column('label')}`", fields.need("label"))
    if label not in names:
        near = difflib.get_close_matches(label, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise fields.wrong(f"the label {shown(label)} is not among {listed(names)}{hint}")
    return _closed(fields, fields.text("text"), names, names.index(label))


def options_of(fields: Fields) -> dict[str, str]:
    """Option texts by letter; a list is lettered A, B, C, a text is split at its own letters."""
    value = fields.need("options")
    if isinstance(value, str):
        value = _split_options(value)
    elif isinstance(value, dict) and isinstance(value.get("text"), list):  # ARC's {"text": […], "label": […]}
        value = _keyed(value.get("label"), value["text"])
    if isinstance(value, list):
        value = _lettered(value)
    if isinstance(value, dict):
        value = _without_padding(value)
    if not isinstance(value, dict) or not 2 <= len(value) <= 26:
        raise fields.wrong(f"`{fields.column('options')}` must be an object or a list of 2 to 26 options")
    return {str(key): fields.plain(f"option {key}", text) for key, text in value.items()}


def _lettered(options: list[Any]) -> dict[str, Any] | None:
    if all(isinstance(option, dict) and {"key", "value"} <= option.keys() for option in options):
        return _keyed([option["key"] for option in options], [option["value"] for option in options])
    return dict(zip(ascii_uppercase, options, strict=False)) if len(options) <= 26 else None


def _keyed(keys: Any, texts: list[Any]) -> dict[str, Any] | None:
    usable = isinstance(keys, list) and len(keys) == len(texts) and all(isinstance(key, str) for key in keys)
    return dict(zip(keys, texts, strict=True)) if usable and len(set(keys)) == len(keys) else None


def _without_padding(options: dict[str, Any]) -> dict[str, Any]:
    """Without the nulls that Parquet writes after the options of a row that has fewer than others."""
    filled = {key: value for key, value in options.items() if value is not None}
    return filled if len(filled) >= 2 else options


def _split_options(text: str) -> dict[str, str]:
    """Options of a text such as "A 胃\\nB 肝"; a line without a later letter continues the one before."""
    options: dict[str, str] = {}
    for line in text.split("\n"):
        start = _OPTION_LINE.fullmatch(line)
        if start and start[1] > max(options, default=""):
            options[start[1]] = start[2].strip()
        elif options and line.strip():
            options[max(options)] += "\n" + line.strip()
    if len(options) < 2:
        _, *pieces = _OPTION_INLINE.split(text)
        letters, texts = pieces[::2], [piece.strip() for piece in pieces[1::2]]
        options = dict(zip(letters, texts, strict=True)) if letters == sorted(set(letters)) else {}
    return options


def _letters(fields: Fields, options: Mapping[str, str]) -> list[str]:
    """The keys of the right options, in order: a letter, several, a list's index, or an option's text."""
    value, keys = fields.need("answer_idx"), list(options)
    if isinstance(value, int) and not isinstance(value, bool) and isinstance(fields.get("options"), list):
        value = keys[value] if 0 <= value < len(keys) else value
    chosen = [value] if isinstance(value, str) else []
    if chosen and value not in options:
        same = [key for key, text in options.items() if text.strip() == value.strip()]
        chosen = same if len(same) == 1 else list(_BETWEEN.sub("", value))
    if not chosen or not options.keys() >= set(chosen) or len(set(chosen)) < len(chosen):
        name, said = fields.column("answer_idx"), shown(fields.get("answer_idx"))
        raise fields.wrong(f"{name} is {said}, but the options are {listed(keys)}")
    if len(chosen) == 1:
        _check_text(fields, options, chosen[0])
    return sorted(chosen, key=keys.index)


def _check_text(fields: Fields, options: Mapping[str, str], letter: str) -> None:
    """DataError where the record's `answer` is the text of an option other than the chosen one."""
    text = fields.get("answer")
    if not isinstance(text, str) or text in (letter, options[letter]):
        return
    name = fields.column("answer_idx")
    if name != fields.column("answer") and (text in options or text in options.values()):
        raise fields.wrong(f"{name} is {letter!r}, but `answer` is {shown(text)}: which of the two is right?")


def _closed(fields: Fields, text: str, options: tuple[str, ...], answer: int) -> Example:
    if len(set(options)) < len(options):
        raise fields.wrong(f"an option occurs twice among {listed(options)}")
    messages, images = _turns(fields, text, options[answer])
    return Example(messages, fields.row_id, options, answer, images=images)


def _open(fields: Fields, text: str, answer: str) -> Example:
    messages, images = _turns(fields, text, answer)
    return Example(messages, fields.row_id, images=images)


def _turns(fields: Fields, text: str, answer: str) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    images = images_of(fields)
    if images and MARK not in text:
        text = f"{MARK * len(images)}\n{text}"
    messages = (Message("user", text), Message("assistant", answer))
    check_marks(fields, messages, images)
    return messages, tuple(images)
