"""The format of a record is told from its fields; a converter makes rows of it; anything else is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seektune.config.data import SourceConfig
from seektune.data.formats.convert import converter, detect, dress, format_of, label_of
from seektune.data.formats.layouts import FORMATS
from seektune.data.records import Record
from seektune.data.sources.files import read
from seektune.errors import DataError
from seektune.types import Example, Message, Pair, Row

DATA = Path(__file__).parents[3].parent / "shared" / "data"
QA = {"question": "Which vitamin?", "options": {"A": "C", "B": "D"}, "answer_idx": "B"}
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
MEDMCQA = {"question": "?", "opa": "w", "opb": "x", "opc": "y", "opd": "z"}


def record(fields: dict[str, Any], line: int = 1) -> Record:
    return Record("rows.jsonl", line, fields)


def source(**chosen: Any) -> SourceConfig:
    return SourceConfig(path="rows.jsonl", **chosen)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        (CHAT, "messages"),
        (CHAT | {"label": True}, "kto"),
        (CHAT | {"label": "cardiology"}, "messages"),
        ({"prompt": "q", "completion": "a", "label": False}, "kto"),
        ({"conversations": [], "tools": ""}, "sharegpt"),
        ({"conversations": [], "chosen": {}, "rejected": {}}, "preference"),
        ({"chosen_messages": [], "rejected_messages": []}, "preference"),
        ({"prompt": "", "chosen": "", "rejected": ""}, "preference"),
        ({"instruction": "", "input": "", "output": ""}, "alpaca"),
        ({"question": "", "answer": ""}, "alpaca"),
        ({"image": "a.png", "caption": "x"}, "alpaca"),
        (QA, "qa"),
        ({"question": "", "choices": [], "answer": 0, "subject": ""}, "qa"),
        (MEDMCQA | {"cop": 1, "exp": ""}, "medmcqa"),
        ({"QUESTION": "", "CONTEXTS": [], "final_decision": "no"}, "pubmedqa"),
        ({"question": "", "context": "", "answer": "maybe"}, "pubmedqa"),
        ({"question": "", "context": "", "answer": "In 1901."}, "alpaca"),
        ({"Question": "", "Options": "", "Answer": "AB", "Explanation": ""}, "cmexam"),
        ({"text": "", "label": 1}, "classification"),
        ({"Question": "", "Complex_CoT": "", "Response": ""}, "reasoning"),
        (QA | {"complex_cot": "", "response": ""}, "reasoning"),
        ({"text": "", "url": ""}, "text"),
        ({"text": "", "kind": "markdown"}, "document"),
        ({"title": "", "images": [], "answer": "x"}, "alpaca"),
    ],
)
def test_the_format_is_told_from_the_fields(fields: dict[str, Any], name: str) -> None:
    assert format_of(record(fields)) == name
    assert format_of(record(fields), name) == name


def test_an_unknown_shape_is_refused_with_what_was_seen_and_the_nearest_format() -> None:
    seen = "rows.jsonl:1 has the fields question, options; "
    with pytest.raises(DataError, match=f"^{seen}the nearest format is qa, which also needs answer_idx"):
        format_of(record({"question": "?", "options": ["x"]}))
    with pytest.raises(DataError, match=r"no fields at all"):
        format_of(record({}))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"question": "?", "option": ["x"], "answer": "x"},
            "qa, .* needs options; .*{options: option}",
        ),
        ({"text": "?", "labels": 1}, "classification, .* needs label; .*{label: labels}"),
    ],
)
def test_a_misspelt_column_is_not_silently_left_out(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        format_of(record(fields))


def test_pairs_of_a_document_are_read_when_the_source_is_one() -> None:
    pair = record({"question": "?", "answer": "!", "span": [0, 2]})
    assert detect([pair], "document") == "document"
    row = converter(source(format="document"), "document")(pair)
    assert row == Example((Message("user", "?"), Message("assistant", "!")), "rows.jsonl:1")


def test_columns_give_fields_to_any_names() -> None:
    fields = {"frage": "?", "antwort": "!", "question": "unrelated"}
    chosen = {"instruction": "frage", "output": "antwort"}
    assert format_of(record(fields), columns=chosen) == "alpaca"
    row = converter(source(columns=chosen), "alpaca")(record(fields))
    assert row == Example((Message("user", "?"), Message("assistant", "!")), "rows.jsonl:1")
    with pytest.raises(DataError, match="`antwort` is missing; the record has frage"):
        converter(source(columns=chosen), "alpaca")(record({"frage": "?"}))


def test_a_named_format_is_not_guessed() -> None:
    with pytest.raises(DataError, match="the format is classification, which also needs text, label"):
        format_of(record(QA), "classification")
    with pytest.raises(DataError, match="unknown data format 'alpaka'; known: auto, preference"):
        format_of(record(QA), "alpaka")


def test_most_of_the_records_decide() -> None:
    records = [record({"quest": 1}), record(QA), record(QA)]
    assert detect(records) == "qa"
    with pytest.raises(DataError, match="has the fields quest"):
        detect(records[:1])
    with pytest.raises(DataError, match="no records"):
        detect([])


def test_tags_of_another_format_are_refused() -> None:
    with pytest.raises(DataError, match="tags: alpaca has no 'role_tag'; known: none"):
        converter(source(tags={"role_tag": "role"}), "alpaca")
    with pytest.raises(DataError, match="tags: messages has no 'user'; known: role_tag, content_tag"):
        converter(source(tags={"user": "role"}), "messages")


@pytest.mark.parametrize(
    ("cops", "tags", "answer"),
    [
        (["0", "1"], {}, "C. y"),
        (["-1", "2"], {}, "C. y"),
        (["4", "1"], {}, "B. x"),
        (["1"], {"first_option": "0"}, "C. y"),
        (["1"], {"first_option": "1"}, "B. x"),
    ],
)
def test_medmcqa_counts_as_its_file_does(cops: Sequence[str], tags: dict[str, str], answer: str) -> None:
    row = converter(source(tags=tags), "medmcqa", cops)(record(MEDMCQA | {"cop": 2}))
    assert isinstance(row, Example)
    assert row.messages[-1].content == answer


@pytest.mark.parametrize(
    ("cops", "tags", "said"),
    [
        (["1", "3"], {}, r"values seen \(1, 3\) do not tell"),
        (["0", "4"], {}, r"values seen \(0, 4\) do not tell"),
        ([], {"first_option": "2"}, "first_option must be 0 or 1"),
    ],
)
def test_medmcqa_is_never_guessed(cops: Sequence[str], tags: dict[str, str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        converter(source(tags=tags), "medmcqa", cops)


def test_labels_are_told_ahead_of_the_rows() -> None:
    assert label_of(record({"text": "x", "label": 1}), source()) == "1"
    assert label_of(record({"text": "x", "y": "b"}), source(columns={"label": "y"})) == "b"
    assert label_of(record(MEDMCQA | {"cop": 0}), source(), "medmcqa") == "0"
    with pytest.raises(DataError, match=r"rows.jsonl:1: `label` is missing"):
        label_of(record({"text": "x"}), source())


def test_a_prefix_opens_user_turns_and_a_system_prompt_only_rows_without_one() -> None:
    row = converter(source(), "messages")(record({"messages": CHAT["messages"] * 2}))
    assert dress(row) is row
    dressed = dress(row, "[MEDICAL] 问题:", "be kind")
    assert isinstance(dressed, Example)
    assert [turn.content for turn in dressed.messages] == ["be kind", *["[MEDICAL] 问题:hi", "hello"] * 2]
    assert dress(dressed, system="be brief") == dressed
    pair = Pair((Message("user", "hi"),), Message("assistant", "a"), None, "rows.jsonl:1")
    assert dress(pair, "> ", "s") == Pair(
        (Message("system", "s"), Message("user", "> hi")), pair.chosen, None, "rows.jsonl:1"
    )
    text = Example((Message("assistant", "Once"),), "rows.jsonl:1")
    assert dress(text, "> ", "s") is text


COLUMN = st.sampled_from(
    sorted({name for layout in FORMATS.values() for names in layout.columns.values() for name in names})
)


@given(st.dictionaries(COLUMN | st.text(), st.none()))
def test_detection_names_a_format_whose_fields_are_there_or_refuses(fields: dict[str, None]) -> None:
    try:
        name = format_of(record(fields, 3))
    except DataError as error:
        found = str(error)
    else:
        layout = FORMATS[name]
        assert any(all(fields.keys() & layout.columns[field] for field in need) for need in layout.needs)
        found = "rows.jsonl:3 has the fields"
    assert found.startswith("rows.jsonl:3 has the fields")


REAL = (
    ("medqa/dev_5opt.jsonl", "qa", 1272),
    ("medqa/train_subset_4opt.jsonl", "qa", 1030),
    ("medqa/train_o1demo_cot.jsonl", "reasoning", 194),
    ("medmcqa/validation.jsonl", "qa", 4183),
    ("pubmedqa/train.jsonl", "pubmedqa", 500),
    ("cmexam/practice_train.jsonl", "qa", 5330),
    ("sst2/train.jsonl", "classification", 6920),
    ("sst2/dev.jsonl", "classification", 872),
    ("trec/train.jsonl", "classification", 5452),
    ("esft_intent/train.jsonl", "messages", 7280),
    ("formats/huatuo_o1_demo.json", "reasoning", 198),
    ("formats/lf_alpaca_en_demo.json", "alpaca", 999),
    ("formats/lf_alpaca_zh_demo.json", "alpaca", 1000),
    ("formats/lf_dpo_zh_demo.json", "preference", 300),
    ("formats/lf_glaive_toolcall_zh_demo.json", "sharegpt", 300),
    ("formats/lf_identity.json", "alpaca", 91),
    ("formats/lf_kto_en_demo.json", "kto", 300),
    ("formats/lf_mllm_demo.json", "messages", 6),
    ("formats/lf_reason_tool_use_demo_50.jsonl", "messages", 50),
    ("formats/lf_v1_dpo_demo.jsonl", "preference", 10),
    ("formats/lf_v1_sft_demo.jsonl", "messages", 500),
    ("formats/mg_dpo_zh_500.jsonl", "preference", 500),
    ("formats/mg_medical_sft_1K_format.jsonl", "sharegpt", 1000),
    ("formats/mg_sample.jsonl", "alpaca", 32),
    ("vision/coco2/mllm_pretrain_image_example_data_new.jsonl", "messages", 12),
    ("vision/coco2/mllm_sft_multi_image_example_data_new.jsonl", "messages", 11),
    ("vision/coco2/mllm_sft_single_image_example_data_new.jsonl", "messages", 22),
    ("vision/xray/captions_zh.jsonl", "alpaca", 6423),
)


def rows_of(path: Path, name: str, columns: dict[str, str]) -> list[Row]:
    chosen = SourceConfig(path=str(path), columns=columns)
    found = list(read(chosen))
    records = [seen for seen in found if isinstance(seen, Record)]
    assert records == found
    assert detect(records[:20], columns=columns) == name
    labels = sorted({label_of(seen, chosen) for seen in records}) if name == "classification" else ()
    return list(map(converter(chosen, name, labels), records))


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
@pytest.mark.parametrize(("file", "name", "count"), REAL)
def test_real_files_load_to_the_last_record(file: str, name: str, count: int) -> None:
    columns = {"images": "image_id", "output": "caption"} if "captions" in file else {}
    rows = rows_of(DATA / file, name, columns)
    assert len(rows) == count
    for row in rows:
        if isinstance(row, Example):
            assert not row.options or row.messages[-1].content == row.options[row.answer or 0]
            assert row.messages[-1].role == "assistant"
        else:
            assert row.chosen or row.rejected


@pytest.mark.skipif(not DATA.is_dir(), reason="needs ../shared/data")
def test_no_real_file_of_records_is_left_out() -> None:
    files = {str(path.relative_to(DATA)) for path in DATA.rglob("*.json*")}
    others = {path for path in files if "golden" in path or path.endswith("dataset_info.json")}
    assert files - others == {file for file, _, _ in REAL}
