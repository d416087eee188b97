"""What a caller is told when a request is not answered, in OpenAI's shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from seektune.errors import AdapterError, SeektuneError

_STATUS = {"wrong": 400, "missing": 404, "busy": 503, "unsaved": 500}  # of an AdapterError, by its kind
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class Refusal(SeektuneError):
    """A request that is not answered: HTTP status, reason, the field at fault and a code for programs."""

    def __init__(
        self,
        message: str,
        status: int = 400,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, dict(headers or {})

    def to_json(self) -> dict[str, Any]:
        """The body of the answer."""
        kind = _KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def refusal_of(error: SeektuneError) -> Refusal:
    """What a caller is told of any error of ours: whose it is, and whether patience helps."""
    if isinstance(error, Refusal):
        return error
    kind = error.kind if isinstance(error, AdapterError) else "wrong"
    return Refusal(str(error), _STATUS[kind], headers={"Retry-After": "1"} if kind == "busy" else None)


def timed_out() -> Refusal:
    """What a caller is told whose answer took too long."""
    return Refusal("the answer was not complete within the server's request_timeout", 504, code="timeout")


def shown(value: object, longest: int = 80) -> str:
    """What a caller sent, quoted and short enough to be said back."""
    text = repr(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"
