"""Outputs of the engine → OpenAI's answers, whole or in chunks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from seektune.generation.request import Output, TokenLogprob
from seektune.models.token_bytes import token_bytes


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What the answers to one call have in common."""

    id: str
    model: str  # who answers, with its version
    chat: bool
    fingerprint: str
    tokenizer: Any
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, outputs: Sequence[Output], n: int) -> dict[str, Any]:
        """The answer in one piece: `outputs` are the complete answers, n for each prompt."""
        choices = [self._whole_choice(index, output) for index, output in enumerate(outputs)]
        kind = "chat.completion" if self.chat else "text_completion"
        return self._frame(kind, choices) | {"usage": usage(outputs, n)}

    def chunk(self, index: int, output: Output, first: bool, offset: int) -> dict[str, Any]:
        """A piece of a stream: what choice `index` gained, `offset` characters into its answer's tokens."""
        choice: dict[str, Any] = {"index": index}
        if self.chat:
            delta = {"role": "assistant"} if first else {}
            choice |= {"delta": delta | ({"content": output.text} if output.text or first else {})}
        else:
            choice |= {"text": output.text}
        choice["logprobs"] = self._logprobs(output.logprobs, offset)
        choice["finish_reason"] = output.finish_reason
        return self._frame(self._chunk_kind, [choice])

    def last_chunk(self, outputs: Sequence[Output], n: int) -> dict[str, Any]:
        """The chunk of usage at the end of a stream; `outputs` are the last ones of each choice."""
        return self._frame(self._chunk_kind, []) | {"usage": usage(outputs, n)}

    @property
    def _chunk_kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }

    def _whole_choice(self, index: int, output: Output) -> dict[str, Any]:
        if self.chat:
            said: dict[str, Any] = {"message": {"role": "assistant", "content": output.text, "refusal": None}}
        else:
            said = {"text": output.text}
        logprobs = self._logprobs(output.logprobs, 0)
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": output.finish_reason}

    def _logprobs(self, chosen: Sequence[TokenLogprob], offset: int) -> dict[str, Any] | None:
        if not chosen:
            return None
        if self.chat:
            content = [
                self._said(one.token, one.logprob) | {"top_logprobs": [self._said(*pair) for pair in one.top]}
                for one in chosen
            ]
            return {"content": content, "refusal": None}
        widths = [self.width([one]) for one in chosen]
        return {
            "tokens": [self._named(one.token)[0] for one in chosen],
            "token_logprobs": [_finite(one.logprob) for one in chosen],
            "top_logprobs": [
                {
                    self._named(token)[0]: _finite(value)
                    for token, value in dict([*one.top, (one.token, one.logprob)]).items()
                }
                for one in chosen
            ],
            "text_offset": list(accumulate(widths[:-1], initial=offset)),
        }

    def width(self, chosen: Sequence[TokenLogprob]) -> int:
        """Characters that begin in these tokens."""
        said = b"".join(self._named(one.token)[1] or b"" for one in chosen)
        return sum(byte & 0xC0 != 0x80 for byte in said)  # UTF-8: all but bytes that go on with a character

    def _said(self, token: int, logprob: float) -> dict[str, Any]:
        name, content = self._named(token)
        return {
            "token": name,
            "logprob": _finite(logprob),
            "bytes": None if content is None else list(content),
        }

    def _named(self, token: int) -> tuple[str, bytes | None]:
        """A token's text, or OpenAI's word for a part of a character, and its bytes."""
        content = token_bytes(self.tokenizer, token)
        if content is None:
            return f"token:{token}", None
        try:
            return content.decode(), content
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content), content


def usage(outputs: Sequence[Output], n: int) -> dict[str, Any]:
    """Tokens of a call; a prompt with n answers counts once."""
    prompt = sum(output.prompt_tokens for output in outputs[::n])
    cached = sum(output.cached_tokens for output in outputs[::n])
    answered = sum(output.completion_tokens for output in outputs)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": answered,
        "total_tokens": prompt + answered,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _finite(logprob: float) -> float:
    return max(logprob, -9999.0)  # OpenAI's word for impossible: JSON has no −∞
