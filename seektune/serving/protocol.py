"""OpenAI's bodies → prompts and sampling; a field that would change the answer is never passed over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field

from seektune.errors import ConfigError
from seektune.generation.request import MAX_LOGPROBS, Sampling
from seektune.serving.body import Body, Items
from seektune.serving.refusal import Refusal
from seektune.types import Message

IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
"""Fields of OpenAI's that are read and passed over: none of them changes an answer."""

# Fields of OpenAI's that are not supported, and values of theirs that ask for nothing, as null always does.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "prediction": (),
    "reasoning_effort": (),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
_NEUTRAL_IN_MESSAGES: Mapping[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "name": (),
    "reasoning_content": (),
    "refusal": (),
    "tool_call_id": (),
    "tool_calls": ([],),
}


_PASSED_ON = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "ignore_eos",
)


class StreamOptions(Body):
    """What a stream says besides the answer."""

    ignored = frozenset({"include_obfuscation"})

    include_usage: bool = False


class TextPart(Body):
    """A part of a message's content."""

    neutral = dict.fromkeys(("file", "image_url", "input_audio", "refusal"), ())
    ignored = frozenset({"cache_control", "prompt_cache_breakpoint"})

    type: Literal["text"]
    text: str


class Turn(Body):
    """One message of a conversation."""

    nested: ClassVar[Mapping[str, type[Body]]] = {"content": TextPart}
    neutral = _NEUTRAL_IN_MESSAGES

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Items[TextPart]

    def message(self) -> Message:
        """The turn as templates take it; a developer's is the system's."""
        text = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        return Message("system" if self.role == "developer" else self.role, text)


class _Answered(Body):
    """What chats and completions share; vLLM's names for what OpenAI has none."""

    nested: ClassVar[Mapping[str, type[Body]]] = {"stream_options": StreamOptions}
    neutral = _NEUTRAL
    ignored = IGNORED

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1)
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | Items[str] = Field(default_factory=list)
    ignore_eos: bool = False

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage."""
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self, max_tokens: int, logprobs: int | None) -> Sampling:
        """How the answer is sampled. Raises Refusal naming the field, its value and its range."""
        if self.stream_options is not None and not self.stream:
            raise Refusal("stream_options needs stream: true", param="stream_options")
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        if len(stop) > 16:
            raise Refusal(f"stop has {len(stop)} strings: at most 16 are looked for", param="stop")
        try:
            return Sampling(
                max_tokens=max_tokens,
                logprobs=logprobs,
                stop=tuple(stop),
                **{name: getattr(self, name) for name in _PASSED_ON},
            )
        except ConfigError as error:
            raise Refusal(str(error), param=str(error).split(" ", 1)[0]) from None


class ChatBody(_Answered):
    """What is posted to /v1/chat/completions."""

    nested: ClassVar[Mapping[str, type[Body]]] = {"messages": Turn, "stream_options": StreamOptions}

    messages: Items[Turn] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)

    @property
    def conversation(self) -> list[Message]:
        """The messages as templates take them."""
        return [turn.message() for turn in self.messages]

    def asked(self, default_max_tokens: int) -> Sampling:
        """How the answer is sampled."""
        limits = {limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None}
        if len(limits) > 1:
            raise Refusal("max_tokens and max_completion_tokens differ: give one", param="max_tokens")
        if self.top_logprobs is not None and not self.logprobs:
            raise Refusal("top_logprobs needs logprobs: true", param="top_logprobs")
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return self.sampling(limits.pop() if limits else default_max_tokens, logprobs)


class TextBody(_Answered):
    """What is posted to /v1/completions."""

    prompt: str | Items[str] | Items[int] | Items[Items[int]]
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)

    @property
    def prompts(self) -> list[str | list[int]]:
        """One text or row of tokens for each prompt."""
        prompt: Any = self.prompt
        one = isinstance(prompt, str) or (prompt and isinstance(prompt[0], int))
        return [prompt] if one else prompt

    def asked(self) -> Sampling:
        """How the answers are sampled; without a length, OpenAI's 16 tokens."""
        return self.sampling(16 if self.max_tokens is None else self.max_tokens, self.logprobs)


class LoadBody(Body):
    """What is posted to /v1/adapters: a name under the adapter root, and the folder of its version."""

    name: str
    version: str | None = None


class AliasBody(Body):
    """What is posted to /v1/adapters/alias: the alias, and the name or name@version it is to mean."""

    alias: str
    name: str


def choices(sampling: Sampling, n: int) -> list[Sampling]:
    """The sampling of each of n answers to one prompt: with a seed, answer i has seed + i."""
    if sampling.seed is None or n == 1:
        return [sampling] * n
    return [replace(sampling, seed=(sampling.seed + index) % 2**63) for index in range(n)]
