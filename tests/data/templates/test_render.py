"""Chat text byte for byte, and tokens whose targets are exactly the answer."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from seektune.config.data import SourceConfig
from seektune.data.formats.convert import converter, format_of
from seektune.data.records import Record
from seektune.data.templates.render import (
    TEMPLATES,
    pieces,
    prompt_ids,
    render,
    render_turn,
    sampler,
    to_sample,
    to_samples,
    turn_ids,
)
from seektune.errors import DataError
from seektune.types import IGNORE, Example, Message, Sample, ToolCall

B, E = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
CODER = (
    "You are an AI programming assistant, utilizing the Deepseek Coder model, developed by Deepseek Company, "
    "and you only answer questions related to computer science. For politically sensitive questions, "
    "security and privacy issues, and other non-computer science questions, you will refuse to answer\n"
)
U = "u{{ 1 }}"  # data is never a template
SYSTEM, MORE = Message("system", "S"), Message("system", "T")
USER, ANSWER, AGAIN = Message("user", U), Message("assistant", "a\n"), Message("user", " v ")
REASONED = Message("assistant", "<think>\nbecause\n</think>\n\nyes")
EOT = "<|EOT|>"
DATA = Path(__file__).parents[3].parent / "shared" / "data"
TOOLS = '[{"name": "f", "description": "d", "parameters": {}}]'
CALL = Message("assistant", "", (ToolCall("f", "{}"),))


@pytest.mark.parametrize(
    ("template", "messages", "text"),
    [
        ("deepseek_v2", [SYSTEM, USER], f"{B}S\n\nUser: {U}\n\nAssistant:"),
        ("deepseek_v2", [USER, ANSWER, AGAIN], f"{B}User: {U}\n\nAssistant: a\n{E}User:  v \n\nAssistant:"),
        ("deepseek_v3", [SYSTEM, USER], f"{B}S<｜User｜>{U}<｜Assistant｜>"),
        ("deepseek_v3", [SYSTEM, USER, ANSWER, MORE, AGAIN],
         f"{B}S\n\nT<｜User｜>{U}<｜Assistant｜>a\n{E}<｜User｜> v <｜Assistant｜>"),
        ("deepseek_r1", [USER, REASONED, AGAIN],
         f"{B}<｜User｜>{U}<｜Assistant｜>\n\nyes{E}<｜User｜> v <｜Assistant｜><think>\n"),
        ("deepseek_v31", [SYSTEM, USER, ANSWER, AGAIN],
         f"{B}S<｜User｜>{U}<｜Assistant｜></think>a\n{E}<｜User｜> v <｜Assistant｜></think>"),
        ("deepseek_v31", [USER, REASONED, AGAIN],
         f"{B}<｜User｜>{U}<｜Assistant｜></think>\n\nyes{E}<｜User｜> v <｜Assistant｜></think>"),
        ("deepseek_vl", [SYSTEM, USER, ANSWER, AGAIN],
         f"{B}S<|User|>: {U}\n\n<|Assistant|>: a\n{E}\n\n<|User|>:  v \n\n<|Assistant|>:"),
        ("deepseek_coder", [USER, ANSWER, AGAIN],
         f"{B}{CODER}### Instruction:\n{U}\n### Response:\na\n\n{EOT}\n"
         "### Instruction:\n v \n### Response:\n"),
        ("deepseek_coder", [SYSTEM, USER], f"{B}S### Instruction:\n{U}\n### Response:\n"),
    ],
)  # fmt: skip
def test_every_generation_renders_byte_for_byte(
    tokenizer: Any, template: str, messages: list[Message], text: str
) -> None:
    assert render(chat_of(tokenizer, template), messages, add_generation_prompt=True) == text


def test_v31_opens_its_thinking_when_asked(tokenizer: Any) -> None:
    chat = chat_of(tokenizer, "deepseek_v31")
    thinking = render(chat, [USER], add_generation_prompt=True, thinking=True)
    assert thinking == f"{B}<｜User｜>{U}<｜Assistant｜><think>"


@pytest.mark.parametrize(
    ("template", "answer", "end_of_prompt", "completion"),
    [
        ("deepseek_v2", "yes", "Assistant:", f" yes{E}"),
        ("deepseek_v3", "yes\n", "<｜Assistant｜>", f"yes\n{E}"),
        ("deepseek_v3", REASONED.content, "<｜Assistant｜>", f"{REASONED.content}{E}"),
        ("deepseek_r1", "yes", "<｜Assistant｜><think>\n", f"\n</think>\n\nyes{E}"),
        ("deepseek_r1", REASONED.content, "<｜Assistant｜><think>\n", f"because\n</think>\n\nyes{E}"),
        (
            "deepseek_r1",
            "because\n</think>\n\nyes",
            "<｜Assistant｜><think>\n",
            f"because\n</think>\n\nyes{E}",
        ),
        ("deepseek_v31", "yes", "<｜Assistant｜></think>", f"yes{E}"),
        ("deepseek_v31", "<think>because</think>yes", "<｜Assistant｜><think>", f"because</think>yes{E}"),
        ("deepseek_vl", "yes", "<|Assistant|>:", f" yes{E}"),
        ("deepseek_coder", "yes", "### Response:\n", f"yes\n{EOT}"),
    ],
)
def test_a_turn_is_the_generation_prompt_and_all_the_model_must_write(
    tokenizer: Any, template: str, answer: str, end_of_prompt: str, completion: str
) -> None:
    messages = [SYSTEM, USER, Message("assistant", answer)]
    prompt, written = render_turn(chat_of(tokenizer, template), messages)
    assert prompt.startswith(f"{B}S")
    assert prompt.endswith(end_of_prompt)
    assert written == completion


def test_the_tokenizers_own_template_wins(tokenizer: Any) -> None:
    chat_ml = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    chat = with_template(tokenizer, chat_ml)
    prompt, completion = render_turn(chat, [USER, ANSWER])
    assert prompt == "<|im_start|>user\nu{{ 1 }}<|im_end|>\n<|im_start|>assistant\n"
    assert completion == "a\n<|im_end|>"


def test_a_template_that_ends_no_turn_gets_eos(tokenizer: Any) -> None:
    chat = with_template(tokenizer, "{% for m in messages %}{{ m.content }}|{% endfor %}")
    assert render_turn(chat, [USER, ANSWER]) == ("u{{ 1 }}|", "a\n|")
    chat = with_template(tokenizer, "{% for m in messages %}{{ m.content }}{% endfor %}")
    assert render_turn(chat, [USER, ANSWER]) == ("u{{ 1 }}", f"a\n{E}")


ordinary = st.text(max_size=40).filter(lambda text: "think>" not in text and "｜" not in text)


@given(ordinary, ordinary.filter(str.strip), st.sampled_from(sorted(TEMPLATES)))
@settings(deadline=None)
def test_tokens_say_the_rendered_text_and_targets_are_the_completion(
    tokenizer: Any, question: str, answer: str, template: str
) -> None:
    chat = chat_of(tokenizer, template)
    messages = (Message("user", question), Message("assistant", answer))
    texts = render_turn(chat, messages)
    prompt, completion = turn_ids(chat, messages)
    assert (
        tuple(tokenizer.decode(ids, clean_up_tokenization_spaces=False) for ids in (prompt, completion))
        == texts
    )
    assert prompt == prompt_ids(chat, messages[:1])
    assert prompt.count(tokenizer.bos_token_id) == 1
    sample = to_sample(chat, Example(messages, "rows:1"))
    assert [*sample.input_ids, sample.targets[-1]] == prompt + completion
    assert sample.targets == (*[IGNORE] * (len(prompt) - 1), *completion)
    if template != "deepseek_coder":
        assert sample.targets[-1] == tokenizer.eos_token_id


def test_bos_is_never_doubled_though_the_tokenizer_would_add_one(chat: SimpleNamespace) -> None:
    own = copy.deepcopy(chat.tokenizer)
    bos = own.bos_token_id
    own.backend_tokenizer.post_processor = TemplateProcessing(single=f"{B} $A", special_tokens=[(B, bos)])
    assert own.encode(render(chat, [USER])).count(bos) == 2  # what a careless call does
    assert prompt_ids(chat_of(own), [USER]).count(bos) == 1


def test_a_merge_across_the_boundary_leaves_the_prompts_tokens_alone(tokenizer: Any) -> None:
    chat = with_template(tokenizer, "{% for m in messages %}{{ m.content }}{% endfor %}")
    messages = [Message("user", "medic"), Message("assistant", "ine")]
    joined = tokenizer.encode("medicine", add_special_tokens=False)
    prompt, completion = turn_ids(chat, messages)
    assert prompt == tokenizer.encode("medic", add_special_tokens=False) != joined[: len(prompt)]
    assert tokenizer.decode(completion) == f"ine{E}"


def test_a_template_that_drops_the_answer_is_refused_by_row(tokenizer: Any) -> None:
    drops = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    changes = "{{ messages | length }}"
    for template in (drops, changes):
        with pytest.raises(
            DataError, match="rows:4: the chat template does not continue its own generation prompt"
        ):
            to_sample(with_template(tokenizer, template), Example((USER, ANSWER), "rows:4"))


def test_a_template_that_refuses_the_roles_is_quoted(tokenizer: Any) -> None:
    chat = with_template(tokenizer, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match="cannot render the roles user, user: roles must alternate"):
        render(chat, [USER, USER])


def test_a_template_that_stumbles_over_its_values_is_quoted(tokenizer: Any) -> None:
    chat = with_template(tokenizer, "{% for m in messages %}{{ m.content + 1 }}{% endfor %}")
    with pytest.raises(DataError, match="cannot render the roles user: can only concatenate"):
        render(chat, [USER])


def test_a_template_cannot_run_code(tokenizer: Any) -> None:
    chat = with_template(tokenizer, "{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(DataError, match="access to attribute"):
        render(chat, [USER])


def test_a_row_without_an_answer_and_a_model_without_a_tokenizer_are_refused(chat: SimpleNamespace) -> None:
    with pytest.raises(DataError, match="rows:2: the last message is not the assistant's"):
        to_sample(chat, Example((USER,), "rows:2"))
    with pytest.raises(DataError, match="no tokenizer"):
        prompt_ids(chat_of(None), [USER])


def test_every_assistant_turn_is_trained_with_its_end(tokenizer: Any) -> None:
    chat = chat_of(tokenizer, "deepseek_v3")
    example = Example((SYSTEM, USER, ANSWER, AGAIN, REASONED), "rows:1")
    assert trained(chat, to_sample(chat, example)) == [f"a\n{E}", f"{REASONED.content}{E}"]
    assert trained(chat, to_sample(chat, example, "last")) == [f"{REASONED.content}{E}"]


def test_where_the_generation_prompt_lacks_the_blank_of_an_answer_history_trains_the_blank(
    tokenizer: Any,
) -> None:
    chat = chat_of(tokenizer, "deepseek_v2")
    sample = to_sample(chat, Example((USER, ANSWER, AGAIN, Message("assistant", "b")), "rows:1"))
    assert trained(chat, sample) == [f" a\n{E}", f" b{E}"]


@pytest.mark.parametrize("template", ["deepseek_r1", "deepseek_v31", "deepseek_v32"])
def test_reasoning_that_is_dropped_from_history_trains_nothing(tokenizer: Any, template: str) -> None:
    chat = chat_of(tokenizer, template)
    sample = to_sample(chat, Example((USER, REASONED, AGAIN, REASONED), "rows:1"))
    assert len(trained(chat, sample)) == 1
    assert trained(chat, sample)[0].lstrip("\n") == f"because\n</think>\n\nyes{E}"
    plain = to_sample(chat, Example((USER, ANSWER, AGAIN, REASONED), "rows:1"))
    assert trained(chat, plain)[0] == f"a\n{E}"


def test_a_messages_weight_is_that_of_its_tokens(tokenizer: Any) -> None:
    chat = chat_of(tokenizer)

    def weighted(first: float | None, second: float | None, turns: Any = "all") -> Sample:
        messages = (
            USER,
            Message("assistant", "a", weight=first),
            AGAIN,
            Message("assistant", "b", weight=second),
        )
        return to_sample(chat, Example(messages, "rows:1"), turns)

    assert trained(chat, weighted(0, None)) == [f"b{E}"]
    assert trained(chat, weighted(1, 0, "last")) == [f"a{E}"]
    assert weighted(2, 2).weight == 2
    mixed = weighted(0.5, None)
    assert isinstance(mixed.weight, tuple)
    assert len(mixed.weight) == len(mixed)
    by_token = {w for w, target in zip(mixed.weight, mixed.targets, strict=True) if target != IGNORE}
    assert by_token == {0.5, 1.0}
    with pytest.raises(DataError, match=r"rows:1: message 0 \(user\) has the weight 1.0"):
        to_sample(chat, Example((Message("user", "u", weight=1.0), ANSWER), "rows:1"))
    assert to_sample(chat, Example((Message("user", "u", weight=0.0), ANSWER), "rows:1"))


def test_plain_text_is_trained_whole_between_bos_and_eos(tokenizer: Any) -> None:
    sample = to_sample(chat_of(tokenizer), Example((Message("assistant", "Once.\n"),), "rows:1"))
    assert sample.input_ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(sample.targets) == f"Once.\n{E}"


@pytest.mark.parametrize("template", ["deepseek_v3", "deepseek_r1", "deepseek_v31"])
def test_tool_calls_are_trained_and_what_tools_return_is_not(tokenizer: Any, template: str) -> None:
    chat = chat_of(tokenizer, template)
    messages = (USER, CALL, Message("tool", "42"), Message("assistant", "it is 42"))
    turns = trained(chat, to_sample(chat, Example(messages, "rows:1", tools=TOOLS)))
    assert [turn.count("<｜tool▁calls▁begin｜>") for turn in turns] == [1, 0]
    assert turns[0].endswith(f"<｜tool▁calls▁end｜>{E}")
    assert turns[1] == f"it is 42{E}"
    reasoned = Message("assistant", REASONED.content, CALL.tool_calls)
    [turn] = trained(chat, to_sample(chat, Example((USER, reasoned), "rows:1", tools=TOOLS)))
    assert "because\n</think>\n\nyes<｜tool▁calls▁begin｜>" in turn


def test_the_prompt_a_row_trains_on_is_the_one_generation_gets(tokenizer: Any) -> None:
    for template in ("deepseek_v2", "deepseek_v3", "deepseek_v31"):
        chat = chat_of(tokenizer, template)
        messages = (SYSTEM, USER, Message("assistant", "12 mmHg。"), AGAIN, Message("assistant", "ok"))
        sample = to_sample(chat, Example(messages, "rows:1", tools=""))
        prompt = prompt_ids(chat, messages[:-1])
        assert list(sample.input_ids[: len(prompt)]) == prompt


def test_tools_reach_a_template_that_knows_them_and_objects_reach_one_that_quotes(tokenizer: Any) -> None:
    knows = (
        "{% for t in tools %}[{{ t.function.name }}]{% endfor %}{% for m in messages %}{{ m.content }}"
        "{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{{ c.function.name }}{% endfor %}|"
        "{% endfor %}"
    )
    chat = with_template(tokenizer, knows)
    call = Message("assistant", "", (ToolCall("f", '{"a":1}'),))
    assert render(chat, [USER, call], tools=TOOLS) == f'[f]{U}|{{"a": 1}}f|'
    with pytest.raises(DataError, match="`arguments` must be JSON"):
        render(chat, [USER, Message("assistant", "", (ToolCall("f", "{"),))])


def test_a_template_that_leaves_a_message_or_a_call_out_is_refused(tokenizer: Any) -> None:
    last = (
        "{% set ns = namespace(s='') %}{% for m in messages %}{% if m.role == 'system' %}"
        "{% set ns.s = m.content %}{% endif %}{% endfor %}{{ ns.s }}"
        "{% for m in messages %}{% if m.role != 'system' %}{{ m.role + m.content }}|{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant{% endif %}"
    )
    chat = with_template(tokenizer, last)
    with pytest.raises(DataError, match=r"leaves out message 0 \(system\)"):
        to_sample(chat, Example((Message("system", "Doctor"), MORE, USER, ANSWER), "rows:1"))
    with pytest.raises(DataError, match="leaves out the tool calls of message 1"):
        to_sample(chat, Example((USER, Message("assistant", "a", (ToolCall("zz", "{}"),))), "rows:1"))


def test_a_batch_keeps_its_order_and_an_error_stands_where_its_row_was(tokenizer: Any) -> None:
    chat = chat_of(tokenizer, "deepseek_v2")
    rows = [Example((Message("user", f"{n}"), ANSWER), f"rows:{n}") for n in range(5)]
    rows.insert(2, Example((USER, CALL), "rows:bad"))
    found = to_samples(chat, rows)
    assert str(found[2]) == (
        "rows:bad: the chat template cannot render the roles user, assistant: "
        "this generation has no form for tool calls"
    )
    assert [row for row in found if isinstance(row, Sample)] == [
        to_sample(chat, row) for row in rows if row.row_id != "rows:bad"
    ]
    assert to_samples(chat, []) == []


def test_a_sampler_remembers_shapes_between_batches(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    own = copy.copy(tokenizer)
    real = tokenizer.apply_chat_template
    monkeypatch.setattr(
        own,
        "apply_chat_template",
        lambda *args, **kwargs: ran.append(1) or real(*args, **kwargs),
        raising=False,
    )
    run = sampler(chat_of(own))
    rows = [Example((Message("user", f"{n}"), ANSWER), f"rows:{n}") for n in range(100)]
    run(rows[:50])
    before = len(ran)
    run(rows[50:])
    assert len(ran) == before < 30


def shared(limit: int = 10) -> list[Example]:
    """Rows of every file of the shared data."""
    rows = []
    for path in sorted(DATA.rglob("*.json*")):
        if "esft_golden" in path.parts or path.stem in ("lf_dataset_info", "captions_zh"):
            continue
        text = path.read_text(encoding="utf-8")
        lines = text.strip().split("\n")[:limit]
        found = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in lines]
        records = [Record(path.name, n, fields) for n, fields in enumerate(found[:limit], 1)]
        name = format_of(records[0])
        labels = sorted({str(record.fields["label"]) for record in records if "label" in record.fields})
        convert = converter(SourceConfig(path=str(path)), name, labels)
        rows += [row for row in map(convert, records) if isinstance(row, Example)]
    return rows


@pytest.mark.skipif(not DATA.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize("template", sorted(TEMPLATES))
def test_batches_of_real_rows_are_what_the_slow_way_gives(tokenizer: Any, template: str) -> None:
    chat = chat_of(tokenizer, template)
    rows = shared()
    found = to_samples(chat, rows)
    tools = {row.row_id for row in rows if row.tools or any(m.tool_calls for m in row.messages)}
    for row, sample in zip(rows, found, strict=True):
        if isinstance(sample, DataError):
            assert "no form for tool" in str(sample)
            assert row.row_id in tools
            continue
        assert sample == to_sample(chat, row)
        if len(row.messages) > 1 and not row.tools:
            prompt, completion = turn_ids(chat, row.messages)
            assert [*sample.input_ids, sample.targets[-1]] == prompt + completion
            if len(pieces(chat, row)) == 2:
                assert sample.targets == (*[IGNORE] * (len(prompt) - 1), *completion)


def trained(chat: SimpleNamespace, sample: Sample) -> list[str]:
    """The text of each run of targets."""
    runs: list[list[int]] = [[]]
    for target in sample.targets:
        if target != IGNORE:
            runs[-1].append(int(target))
        elif runs[-1]:
            runs.append([])
    return [text(chat, run) for run in runs if run]


def text(chat: SimpleNamespace, ids: Sequence[int]) -> str:
    return str(chat.tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def chat_of(tokenizer: Any, template: str = "deepseek_v3") -> SimpleNamespace:
    return SimpleNamespace(tokenizer=tokenizer, template=template)


def with_template(tokenizer: Any, template: str) -> SimpleNamespace:
    """A copy of the tokenizer with a chat template of its own."""
    own = copy.copy(tokenizer)
    own.chat_template = template
    return chat_of(own)
