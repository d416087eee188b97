"""The shape of a refusal."""

from __future__ import annotations

import pytest

from seektune.errors import AdapterError, ConfigError, SeektuneError
from seektune.serving.refusal import Refusal, refusal_of, shown


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_a_refusal_has_openais_shape(status: int, kind: str):
    refusal = Refusal("why", status, param="n", code="c")
    assert refusal.to_json() == {"error": {"message": "why", "type": kind, "param": "n", "code": "c"}}
    assert isinstance(refusal, SeektuneError)


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (Refusal("x", 429), 429, {}),
        (ConfigError("x"), 400, {}),
        (AdapterError("x"), 400, {}),
        (AdapterError("x", "missing"), 404, {}),
        (AdapterError("x", "busy"), 503, {"Retry-After": "1"}),
        (AdapterError("x", "unsaved"), 500, {}),
    ],
)
def test_a_status_says_whose_an_error_is(error: SeektuneError, status: int, headers: dict[str, str]):
    refusal = refusal_of(error)
    assert (refusal.status, refusal.headers, str(refusal)) == (status, headers, "x")


def test_what_a_caller_sent_is_said_back_short():
    assert shown("a") == "'a'"
    assert len(shown("x" * 10**6)) == 80
    assert "\n" not in shown("line\nline")
