"""What is served: OpenAI's routes, adapters, health, metrics, the playground; all behind the guard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from seektune.config.serving import ServingConfig
from seektune.errors import SeektuneError
from seektune.serving.auth import Guard, Keys, administers, in_url, response_of
from seektune.serving.backend import Backend
from seektune.serving.body import B, read
from seektune.serving.completions import Answering
from seektune.serving.limits import body_of
from seektune.serving.metrics import Metrics
from seektune.serving.playground import playground
from seektune.serving.protocol import AliasBody, ChatBody, LoadBody, TextBody
from seektune.serving.refusal import Refusal, refusal_of, shown
from seektune.serving.served import Served
from seektune.serving.strict_json import parse

_WITHOUT_V1 = ("/chat/completions", "/completions", "/models", "/adapters")  # a base_url that ends too early
_QUICK = 64 << 10  # bytes of a body that is read at once; a larger one would hold up everybody


@dataclass(frozen=True)
class Service:
    """What the routes work with."""

    backend: Backend
    answering: Answering
    config: ServingConfig
    keys: Keys

    def close(self) -> None:
        """End the backend; a second time is no error."""
        self.backend.close()


def create_app(service: Service) -> FastAPI:
    """The application; it closes the service when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        every = service.config.adapter_poll
        watching = asyncio.ensure_future(service.backend.watch(every)) if every else None
        yield
        if watching:
            watching.cancel()
        service.close()

    app = FastAPI(
        title="seektune",
        lifespan=lifespan,
        openapi_url=None,  # bodies are read strictly, past what FastAPI could describe
        redirect_slashes=False,
        middleware=_middleware(service),
    )
    _answer_errors(app, service.backend.metrics)
    _add_playground(app)
    _add_openai(app, service)
    _add_adapters(app, service)
    _add_state(app, service)
    return app


def _middleware(service: Service) -> list[Middleware]:
    hosts = [in_url(service.config.host)]
    guard = Middleware(Guard, keys=service.keys, metrics=service.backend.metrics, hosts=hosts)
    if not service.config.cors_origins:
        return [guard]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(service.config.cors_origins),
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],  # OpenAI's client for browsers sends a dozen of its own
        expose_headers=["Retry-After"],
    )
    return [cors, guard]  # a browser's preflight carries no key


def _answer_errors(app: FastAPI, metrics: Metrics) -> None:
    def refuse(refusal: Refusal) -> JSONResponse:
        metrics.refused(refusal.status)
        return response_of(refusal)

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, SeektuneError)
        return refuse(refusal_of(error))

    async def no_route(call: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        path = call.url.path
        hint = f"; did you mean /v1{path}?" if path in _WITHOUT_V1 else ""
        said = f"{call.method} {shown(path)}: {error.detail}{hint}"
        return refuse(Refusal(said, error.status_code, headers=error.headers))

    async def failed(_: Request, error: Exception) -> JSONResponse:
        return refuse(Refusal(f"the server failed ({type(error).__name__}): see its log", 500))

    app.add_exception_handler(SeektuneError, refused)
    app.add_exception_handler(HTTPException, no_route)
    app.add_exception_handler(Exception, failed)


async def _read(kind: type[B], call: Request, service: Service) -> B:
    content = await body_of(call, service.config)
    if len(content) <= _QUICK:
        return read(kind, parse(content))
    return await asyncio.to_thread(lambda: read(kind, parse(content)))


def _add_playground(app: FastAPI) -> None:
    page = playground()

    @app.get("/")
    async def root() -> Response:
        """The playground, for anyone; what it asks for needs a key as always."""
        return page


def _add_openai(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions")
    async def chat(call: Request) -> Response:
        """Answer a conversation."""
        return await service.answering.chat(await _read(ChatBody, call, service), call)

    @app.post("/v1/completions")
    async def complete(call: Request) -> Response:
        """Continue texts."""
        return await service.answering.complete(await _read(TextBody, call, service), call)

    started = int(time.time())

    def card(served: Served) -> dict[str, Any]:
        parent = None if served.adapter is None else service.backend.names.base
        return {
            "id": served.name,
            "object": "model",
            "created": started,
            "owned_by": "seektune",
            "root": served.id,
            "parent": parent,
        }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The base and the adapters that can be named as `model`."""
        return {"object": "list", "data": [card(served) for served in service.backend.names.all()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """One of them."""
        with service.backend.names.serving(name) as served:
            return card(served)


def _add_adapters(app: FastAPI, service: Service) -> None:
    registry = service.backend.registry
    change = service.backend.change

    @app.get("/v1/adapters")
    async def adapters(call: Request) -> dict[str, Any]:
        """What is loaded, and why what is not served is not; where it lies is the administrators' to know."""
        data = [version | {"object": "adapter"} for version in registry.published.listed()]
        if call.scope["seektune.role"] != "administer":
            data = [{key: value for key, value in one.items() if key != "place"} for one in data]
        return {"object": "list", "data": data, "reasons": dict(registry.reasons)}

    @app.post("/v1/adapters", dependencies=[Depends(administers)])
    async def load(call: Request) -> dict[str, Any]:
        """Load an adapter, or its new version, which serves from the next request on."""
        body = await _read(LoadBody, call, service)
        version = await change(lambda: registry.load(body.name, body.version))
        return asdict(version) | {"object": "adapter"}

    @app.post("/v1/adapters/alias", dependencies=[Depends(administers)])
    async def alias(call: Request) -> dict[str, Any]:
        """Let an alias mean a version, from the next request on."""
        body = await _read(AliasBody, call, service)
        return {"alias": body.alias, "key": await change(lambda: registry.alias(body.alias, body.name))}

    @app.delete("/v1/adapters/alias/{name}", dependencies=[Depends(administers)])
    async def unalias(name: str) -> dict[str, Any]:
        """Remove an alias."""
        await change(lambda: registry.unalias(name))
        return {"alias": name, "deleted": True}

    @app.delete("/v1/adapters/{name}", dependencies=[Depends(administers)])
    async def unload(name: str) -> dict[str, Any]:
        """Serve a name, or one name@version, no longer; requests under way finish."""
        await change(lambda: registry.unload(name))
        return {"name": name, "deleted": True}


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the engine's thread lives."""
        if not service.backend.worker.alive:
            raise Refusal("the engine has ended", 503)
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """Whether a request sent now would be answered: the engine is asked and says so."""
        await service.backend.worker.call(lambda: None)
        return {"status": "ready"}

    @app.get("/metrics", dependencies=[Depends(administers)])
    async def metrics() -> Response:
        """Prometheus' text form."""
        return Response(service.backend.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
