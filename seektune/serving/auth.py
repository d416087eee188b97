"""Who may call: API keys with roles, asked for before any route is looked up."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from seektune.errors import ConfigError
from seektune.serving.metrics import Metrics
from seektune.serving.refusal import Refusal

Role = Literal["use", "administer"]
VARIABLE = "SEEKTUNE_API_KEYS"
_SHORTEST = 16  # characters of a key
_PAGE = ("GET", "/")  # the playground
_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, repr=False)
class Keys:
    """API keys as digests, each with its role."""

    roles: tuple[tuple[bytes, Role], ...] = ()

    def role(self, key: str) -> Role | None:
        """The role of a presented key; takes as long for a wrong one as for a right one."""
        digest, found = _digest(key), None
        for known, role in self.roles:
            if hmac.compare_digest(known, digest):
                found = role
        return found


def read_keys(path: Path | None, environment: Mapping[str, str]) -> Keys:
    """Keys from a file and the variable SEEKTUNE_API_KEYS: a line `use:KEY` or `administer:KEY` for each.

    Empty lines and lines that begin with # are passed over; in the variable commas part lines too. Raises
    ConfigError naming the line, never the key.
    """
    lines: list[tuple[str, str]] = []
    if path is not None:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read API keys from {path}: {error}") from None
        lines += [(f"{path}, line {n}", line) for n, line in enumerate(text.splitlines(), 1)]
    given = environment.get(VARIABLE, "").replace(",", "\n").splitlines()
    lines += [(f"{VARIABLE}, entry {n}", line) for n, line in enumerate(given, 1)]
    roles = tuple(
        _entry(where, line.strip())
        for where, line in lines
        if line.strip() and not line.strip().startswith("#")
    )
    if not roles and (path is not None or VARIABLE in environment):  # an open server is asked for otherwise
        raise ConfigError(
            f"{path or VARIABLE} holds no API key: write use:KEY or administer:KEY for each, or leave it out"
        )
    return Keys(roles)


def refuse_open_address(host: str, keys: Keys) -> None:
    """Raise ConfigError for an address that others can reach while there are no keys."""
    if keys.roles or is_loopback(host):
        return
    raise ConfigError(
        f"serving.host is {host}, which other machines may reach, and there are no API keys: give --api-keys "
        f"FILE (or {VARIABLE}), or listen on 127.0.0.1"
    )


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own; of names only localhost is."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def in_url(host: str) -> str:
    """An address as URLs and the header Host have it: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def administers(request: Request) -> None:
    """Refuse a caller whose key only allows to use what is served."""
    if request.scope["seektune.role"] != "administer":
        raise Refusal("this needs an API key with the role administer", 403, code="insufficient_role")


class Guard:
    """Every call passes here, routes and 404s alike: with keys it must present one.

    The playground's page alone is anyone's: a browser that opens an address can send no key, and the page
    is the same in every copy of this package. What it asks for needs a key.

    Without keys the server listens on loopback only, and answers to local names only: a page of elsewhere
    whose name was made to lead here (DNS rebinding) is turned away.
    """

    def __init__(self, app: ASGIApp, keys: Keys, metrics: Metrics, hosts: Sequence[str] = ()) -> None:
        self._app, self._keys, self._metrics = app, keys, metrics
        self._hosts = {*_LOCAL_NAMES, *hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI asks."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope["seektune.role"] = self._role(scope)
        except Refusal as refusal:
            self._metrics.refused(refusal.status)
            await response_of(refusal)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _role(self, scope: Scope) -> Role | None:
        headers = Headers(scope=scope)
        if not self._keys.roles:
            name = headers.get("host", "").rsplit(":", 1)
            host = name[0] if len(name) == 2 and name[1].isdigit() else ":".join(name)
            if host not in self._hosts:
                raise Refusal("without API keys only calls to localhost are answered", 403, code="wrong_host")
            return "administer"
        if (scope["method"], scope["path"]) == _PAGE:
            return None
        key = _presented(headers.getlist("authorization"))
        role = None if key is None else self._keys.role(key)
        if role is None:
            said = "no API key" if key is None else "an unknown API key"
            raise Refusal(
                f"{said} was given: send the header `Authorization: Bearer KEY`",
                401,
                code="invalid_api_key",
                headers={"WWW-Authenticate": 'Bearer realm="seektune"'},
            )
        return role


def response_of(refusal: Refusal) -> JSONResponse:
    """A refusal as the answer to a call."""
    return JSONResponse(refusal.to_json(), refusal.status, refusal.headers)


def _presented(values: Sequence[str]) -> str | None:
    """The key in an Authorization header.

    Bearer only: a browser sends along by itself what it once was told for Basic, whatever page calls.
    """
    if len(values) != 1:
        return None
    scheme, _, rest = values[0].partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else None


def _entry(where: str, line: str) -> tuple[bytes, Role]:
    role, colon, key = line.partition(":")
    if role not in get_args(Role) or not colon:
        raise ConfigError(f"{where}: write use:KEY or administer:KEY")
    if len(key.strip()) < _SHORTEST or not key.isascii():
        raise ConfigError(f"{where}: an API key is at least {_SHORTEST} ASCII characters, best random ones")
    return _digest(key.strip()), cast(Role, role)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
