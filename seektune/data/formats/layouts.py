"""The formats as data: their fields, the columns these may stand under, and which of them must be there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from seektune.data.formats.fields import Columns, Fields, mapped
from seektune.errors import DataError


@dataclass(frozen=True, slots=True)
class Format:
    """The fields of a format with the columns they may stand under; one of `needs` must be there."""

    columns: Columns
    needs: tuple[tuple[str, ...], ...]


_PROMPT = ("instruction", "prompt", "question", "query")
_ANSWER = ("output", "response", "answer", "completion", "target")
_EXTRAS: Columns = MappingProxyType(
    {"system": ("system", "system_prompt"), "tools": ("tools",), "images": ("images", "image")}
)

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "preference": Format(
            {
                "messages": ("conversations", "messages"),
                "instruction": ("prompt", "instruction", "question"),
                "input": ("input",),
                "history": ("history",),
                "chosen": ("chosen", "chosen_messages"),
                "rejected": ("rejected", "rejected_messages"),
                **_EXTRAS,
            },
            (("chosen", "rejected"),),
        ),
        "kto": Format(
            {
                "messages": ("messages", "conversations"),
                "instruction": _PROMPT,
                "input": ("input",),
                "history": ("history",),
                "output": ("completion", *_ANSWER),
                "label": ("label", "kto_tag"),
                **_EXTRAS,
            },
            (("messages", "label"), ("instruction", "output", "label")),
        ),
        "sharegpt": Format({"messages": ("conversations", "conversation"), **_EXTRAS}, (("messages",),)),
        "messages": Format({"messages": ("messages",), **_EXTRAS}, (("messages",),)),
        "reasoning": Format(
            {
                "question": ("Question", "question", "prompt", "instruction", "input"),
                "reasoning": ("Complex_CoT", "complex_cot", "reasoning_content", "reasoning", "cot"),
                "answer": ("Response", "response", "answer", "output", "content"),
                "options": ("options",),
                "system": _EXTRAS["system"],
                "images": _EXTRAS["images"],
            },
            (("question", "reasoning", "answer"),),
        ),
        "medmcqa": Format(
            {key: (key,) for key in ("question", "opa", "opb", "opc", "opd", "cop")},
            (("question", "opa", "opb", "opc", "opd", "cop"),),
        ),
        "pubmedqa": Format(
            {
                "question": ("QUESTION", "question"),
                "context": ("CONTEXTS", "context", "contexts"),
                "answer": ("final_decision", "answer"),
            },
            (("question", "context", "answer"),),
        ),
        "cmexam": Format(
            {"question": ("Question",), "options": ("Options",), "answer_idx": ("Answer",)},
            (("question", "options", "answer_idx"),),
        ),
        "qa": Format(
            {
                "question": ("question",),
                "options": ("options", "choices"),
                "answer_idx": ("answer_idx", "answer", "answerKey"),
                "answer": ("answer",),
                "images": _EXTRAS["images"],
            },
            (("question", "options", "answer_idx"),),
        ),
        "alpaca": Format(
            {
                "instruction": _PROMPT,
                "input": ("input", "context"),
                "output": (*_ANSWER, "caption"),
                "history": ("history",),
                **_EXTRAS,
            },
            (("instruction", "output"), ("images", "output")),
        ),
        "classification": Format(
            {"text": ("text",), "label": ("label",), "options": ("options",)}, (("text", "label"),)
        ),
        "document": Format(  # a pair taken from a document, or the document whole
            {key: (key,) for key in ("text", "kind", "question", "answer", "span")},
            (("text", "kind"), ("question", "answer", "span")),
        ),
        "text": Format({"text": ("text",)}, (("text",),)),
    }
)
"""By name, in the order of detection: the more a format asks for, the earlier it stands."""


def columns_of(name: str, columns: Mapping[str, str]) -> Columns:
    """Where a format's fields stand; DataError for a chosen field that it does not have."""
    known = FORMATS[name].columns
    for field in columns:
        if field not in known:
            raise DataError(f"columns: {name} has no field {field!r}; its fields: {', '.join(known)}")
    return mapped(known, columns)


def unread(
    record_fields: Mapping[str, Any], name: str, columns: Mapping[str, str] = MappingProxyType({})
) -> tuple[str, ...]:
    """Columns with a value that the format does not read, in the record's order."""
    fields = Fields("", record_fields, columns_of(name, columns))
    read = {fields.column(field) for field in fields.columns}
    return tuple(key for key, value in record_fields.items() if key not in read and value is not None)
