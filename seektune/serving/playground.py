"""The playground: one page that needs nothing but the API, and headers that let it reach nothing else."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from starlette.responses import HTMLResponse

_SCRIPTS = ("words.js", "api.js", "conversation.js", "main.js")  # one script in this order


def playground() -> HTMLResponse:
    """The page with its style and script inside, the same for every caller: it holds no secret.

    Its Content-Security-Policy names style and script by their hashes. Trusted types forbid the page to turn
    any string into HTML, so what a model says can only be shown.
    """
    here = files("seektune.serving").joinpath("page")
    house = files("seektune.reports").joinpath("house.css")
    style = house.read_text("utf-8") + here.joinpath("style.css").read_text("utf-8")
    script = "".join(here.joinpath(name).read_text("utf-8") for name in _SCRIPTS)
    frame = here.joinpath("index.html").read_text("utf-8")
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"frame-ancestors 'none'; style-src {_hash(style)}; script-src {_hash(script)}; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return HTMLResponse(
        frame.replace("{{ style }}", style).replace("{{ script }}", script),
        headers={
            "Cache-Control": "no-cache",
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        },
    )


def _hash(text: str) -> str:
    """As a policy names the content of an element."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
