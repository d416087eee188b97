"""Synthetic rows for `prepare.py`: seven files in the shapes users have, no two rows alike; and as messages.

Each text is walked through real texts of its language: a few words as they stand there, then on from another
place where the last of them stands too, now and then a name or number made up. So words, lengths and
languages are those of real rows, and long stretches of two rows are never the same.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

Fields = dict[str, Any]

VERSION = 1
"""Of the rows: part of their folder's name, to be raised when they change."""

SHARES = {
    "medqa": 0.25, "alpaca_en": 0.15, "alpaca_zh": 0.15, "sharegpt": 0.15, "messages": 0.1,
    "classification": 0.1, "cmexam": 0.1,
}  # fmt: skip
INSTRUCTION = "Answer with the letter and the text of the correct option."
CHINESE_INSTRUCTION = "请写出正确选项的字母和内容。"
LABELS = ("abbreviation", "description", "entity", "human", "location", "number")
MOST_UNITS = 600  # words, or pairs of Chinese characters: so that no row exceeds 2,048 tokens

_UNIT = re.compile(r"[A-Za-z]+ ?|[\u4e00-\u9fff]{1,2}|\d|\s+|.")
_SYLLABLES = "ba den cor mi lu tra ves on ali per sto quin hal re zo fe gar nix"
_RARE = (0x4E00, 0x9F00)  # where made-up Chinese names come from
_PLAIN_WORDS = (
    "the patient comes to a physician because of pain in left knee after two weeks with fever and cough no "
    "history blood pressure is normal which treatment most likely helps his mother who takes daily drugs"
)
_PLAIN_SIGNS = "患者男性因发热咳嗽三天来院检查血压正常既往史无特殊治疗后好转应当首选哪种药物为什么"


def write_rows(folder: Path, rows: int, data: Path) -> Path:
    """A folder of JSON lines with so many rows, made once; `data` holds real texts, if it is there."""
    target = folder / f"rows-{rows}-v{VERSION}{'' if data.is_dir() else '-plain'}"
    if target.is_dir():
        return target
    unfinished = target.with_suffix(".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    english, chinese = voices(data)
    makers: dict[str, Callable[[Random], Fields]] = {
        "medqa": lambda random: question(english["medqa"], random, 4),
        "alpaca_en": lambda random: alpaca(english["alpaca"], random),
        "alpaca_zh": lambda random: alpaca(chinese["alpaca"], random),
        "sharegpt": lambda random: sharegpt(chinese["sharegpt"], random),
        "messages": lambda random: messages(english["alpaca"], random),
        "classification": lambda random: {
            "text": english["trec"].say(random), "label": random.choice(LABELS)
        },
        "cmexam": lambda random: exam(chinese["cmexam"], random),
    }  # fmt: skip
    for name, maker in makers.items():
        random = Random(f"{name} {VERSION}")
        with (unfinished / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for _ in range(round(rows * SHARES[name])):
                file.write(json.dumps(maker(random), ensure_ascii=False) + "\n")
    unfinished.rename(target)
    return target


class Voice:
    """Says texts in the words and the lengths of those it has heard."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._units: list[str] = []
        self._places: dict[str, list[int]] = defaultdict(list)
        self._sizes: list[int] = []
        for text in texts:
            units = _UNIT.findall(text)
            self._sizes.append(min(len(units), MOST_UNITS))
            for place, unit in enumerate(units, start=len(self._units)):
                self._places[unit].append(place)
            self._units += units

    def say(self, random: Random, most: int = MOST_UNITS) -> str:
        """A text of the length of a random one of those heard."""
        size = min(self._sizes[int(random.random() * len(self._sizes))], most)
        said: list[str] = []
        at = int(random.random() * len(self._units))
        while len(said) < size:
            run = self._units[at : at + 3 + int(random.random() * 6)] or self._units[:3]
            said += run
            places = self._places[run[-1]]
            at = places[int(random.random() * len(places))] + 1
            if random.random() < 0.15:
                said.append(_invented(random, run[-1]))
        return "".join(said[:size]).strip() or "1"


def _invented(random: Random, after: str) -> str:
    """A number, or a name in the script of the unit before."""
    if random.random() < 0.3:
        return f"{int(random.random() * 1000)} "
    if "\u4e00" <= after[0] <= "\u9fff":
        return "".join(chr(random.randrange(*_RARE)) for _ in range(2))
    return "".join(random.choices(_SYLLABLES.split(), k=3)) + " "


def voices(data: Path) -> tuple[dict[str, Voice], dict[str, Voice]]:
    """(English, Chinese) by what they were heard from; of a few plain words where `data` is not there."""
    if not data.is_dir():
        random = Random(0)
        english = [" ".join(random.choices(_PLAIN_WORDS.split(), k=n)) + "." for n in range(20, 120)]
        chinese = ["".join(random.choices(_PLAIN_SIGNS, k=n)) + "。" for n in range(40, 240)]
        plain, signs = Voice(english), Voice(chinese)
        return (
            dict.fromkeys(("medqa", "alpaca", "trec"), plain),
            dict.fromkeys(("alpaca", "sharegpt", "cmexam"), signs),
        )
    medqa = [row["question"] for name in ("train_subset_4opt", "dev_5opt")
             for row in _lines(data / "medqa" / f"{name}.jsonl")]  # fmt: skip
    talks = (row["conversations"] for row in _lines(data / "formats" / "mg_medical_sft_1K_format.jsonl"))
    return (
        {
            "medqa": Voice(medqa),
            "alpaca": Voice(row["output"] for row in _array(data / "formats" / "lf_alpaca_en_demo.json")),
            "trec": Voice(row["text"] for row in _lines(data / "trec" / "train.jsonl")),
        },
        {
            "alpaca": Voice(row["output"] for row in _array(data / "formats" / "lf_alpaca_zh_demo.json")),
            "sharegpt": Voice(turn["value"] for talk in talks for turn in talk),
            "cmexam": Voice(row["question"] for row in _lines(data / "cmexam" / "practice_train.jsonl")),
        },
    )


def question(voice: Voice, random: Random, options: int) -> Fields:
    """MedQA's US layout."""
    listed = {letter: f"{voice.say(random, 6)} {n}" for n, letter in enumerate("ABCDE"[:options])}
    letter = random.choice("ABCDE"[:options])
    return {
        "question": voice.say(random),
        "options": listed,
        "answer_idx": letter,
        "answer": listed[letter],
    }


def exam(voice: Voice, random: Random) -> Fields:
    """CMExam's layout, with the explanation that nobody reads."""
    row = question(voice, random, 5)
    return {
        "Question": row["question"],
        "Options": [{"key": key, "value": text} for key, text in row["options"].items()],
        "Answer": row["answer_idx"],
        "Explanation": voice.say(random),
    }


def alpaca(voice: Voice, random: Random) -> Fields:
    """Instruction, mostly without input, and output."""
    long = random.random() < 0.3
    return {
        "instruction": voice.say(random, 20),
        "input": voice.say(random, 60) if long else "",
        "output": voice.say(random),
    }


def sharegpt(voice: Voice, random: Random) -> Fields:
    """One to three rounds of human and gpt."""
    turns = [
        {"from": who, "value": voice.say(random, MOST_UNITS // 6)}
        for _ in range(random.choice((1, 1, 2, 3)))
        for who in ("human", "gpt")
    ]
    return {"conversations": turns}


def messages(voice: Voice, random: Random) -> Fields:
    """One or two rounds, every third with a system prompt."""
    opening = [{"role": "system", "content": voice.say(random, 30)}] if random.random() < 0.3 else []
    turns = [
        {"role": role, "content": voice.say(random, MOST_UNITS // 4)}
        for _ in range(random.choice((1, 1, 1, 2)))
        for role in ("user", "assistant")
    ]
    return {"messages": opening + turns}


def as_completion(row: dict[str, Any]) -> dict[str, Any]:
    """A row of any of the formats as conversational prompt and completion."""
    messages = as_messages(row)["messages"]
    return {"prompt": messages[:-1], "completion": messages[-1:]}


def as_messages(row: dict[str, Any]) -> dict[str, Any]:
    """A row of any of the formats as messages, in the words that seektune gives it."""
    if "messages" in row:
        return {"messages": row["messages"]}
    if "conversations" in row:
        roles = {"human": "user", "gpt": "assistant"}
        turns = [(roles[turn["from"]], turn["value"]) for turn in row["conversations"]]
        return {"messages": [{"role": role, "content": text} for role, text in turns]}
    if "instruction" in row:
        asked = f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]
        return _asked(asked, row["output"])
    if "label" in row:
        return _asked(row["text"], row["label"])
    if "Options" in row:
        options = {option["key"]: option["value"] for option in row["Options"]}
        question, letter, instruction = row["Question"], row["Answer"], CHINESE_INSTRUCTION
    else:
        question, options, letter = row["question"], row["options"], row["answer_idx"]
        instruction = INSTRUCTION
    listed = [f"{key}. {text}" for key, text in options.items()]
    return _asked("\n".join([question, *listed, instruction]), f"{letter}. {options[letter]}")


def _asked(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def _lines(path: Path) -> Iterator[Fields]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def _array(path: Path) -> list[Fields]:
    rows: list[Fields] = json.loads(path.read_text(encoding="utf-8"))
    return rows
