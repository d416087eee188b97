"""Chat text byte for byte, and tokens whose targets are exactly the answer."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from seektune.data.templates import TEMPLATES, prompt_ids, render, render_turn, to_sample, turn_ids
from seektune.errors import DataError
from seektune.types import IGNORE, Example, Message

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


@given(st.text(max_size=40), st.text(max_size=40).filter(str.strip), st.sampled_from(sorted(TEMPLATES)))
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


def test_a_template_cannot_run_code(tokenizer: Any) -> None:
    chat = with_template(tokenizer, "{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(DataError, match="access to attribute"):
        render(chat, [USER])


def test_a_row_without_an_answer_and_a_model_without_a_tokenizer_are_refused(chat: SimpleNamespace) -> None:
    with pytest.raises(DataError, match="rows:2: the last message is not the assistant's"):
        to_sample(chat, Example((USER,), "rows:2"))
    with pytest.raises(DataError, match="no tokenizer"):
        prompt_ids(chat_of(None), [USER])


def chat_of(tokenizer: Any, template: str = "deepseek_v3") -> SimpleNamespace:
    return SimpleNamespace(tokenizer=tokenizer, template=template)


def with_template(tokenizer: Any, template: str) -> SimpleNamespace:
    """A copy of the tokenizer with a chat template of its own."""
    own = copy.copy(tokenizer)
    own.chat_template = template
    return chat_of(own)
