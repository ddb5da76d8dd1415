"""The ASGI application: all doors of one queue, served alone or mounted in another application."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles

from turnkeep.application import Application
from turnkeep.auth.audit_trail import Trail
from turnkeep.auth.credential_watch import CredentialWatch
from turnkeep.auth.limits import Limits
from turnkeep.auth.principals import Access, OpenAccess
from turnkeep.doors.error_answers import JsonResponse, error_response
from turnkeep.doors.http.endpoint import HttpDoor
from turnkeep.doors.http.endpoint_router import EndpointRouter
from turnkeep.doors.http.openai.openai_errors import no_such_route
from turnkeep.doors.http.openapi import document
from turnkeep.doors.http.paths import Paths
from turnkeep.doors.http.routes import ENDPOINTS, METRICS_ENDPOINT
from turnkeep.doors.origin import Origins
from turnkeep.doors.socket.sockets import ELSEWHERE, Sockets
from turnkeep.doors.strictness import Strictness
from turnkeep.errors import StoreError
from turnkeep.settings import Settings

POLYFILLS = ("Cache-Control", "Pragma", "X-Requested-With")
"""What replacements of EventSource and older clients ask leave for, though nothing here reads it."""

SDK_HEADERS = (
    *("OpenAI-Beta", "X-Conversation-Id", "X-OpenWebUI-Chat-Id", "X-Task"),
    *(f"X-Stainless-{name}" for name in (
        "Arch", "Lang", "OS", "Package-Version", "Retry-Count", "Runtime", "Runtime-Version", "Timeout",
        "Helper-Method", "Poll-Helper", "Custom-Poll-Interval",
    )),
)  # fmt: skip
"""What OpenAI's client sends from a browser, and what names a conversation there."""

NO_ROUTE = ("not_found", "there is no such route")
NO_METHOD = ("method_not_allowed", "this route does not take that method")
PAGE_HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data:",  # pictures that somebody attached; none is loaded from elsewhere
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def app(application: Application, *, access: Access | None = None, own_application: bool = True) -> Starlette:
    """All doors in one. With `own_application` its lifespan opens and closes `application`."""
    access = access or OpenAccess()
    limits = Limits(application.settings, store=application.store)
    credentials = CredentialWatch(access)
    door = HttpDoor(application, credentials, limits)
    sockets = Sockets(application, credentials, limits)
    endpoints = [door.route(endpoint) for endpoint in ENDPOINTS]

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if own_application:
            await application.open()
        try:
            yield
        finally:
            sockets.close()
            if own_application:
                await application.close()

    asgi_app = Starlette(
        lifespan=lifespan,
        middleware=[
            *_middleware(application.settings, access, Trail(application.store, application.meter, application.clock)),
            Middleware(EndpointRouter, endpoints),
        ],
        exception_handlers={HTTPException: _no_such_route},
        routes=[
            *endpoints,
            WebSocketRoute("/ws", sockets.answer),
            # as some clients and proxies write it; a redirect is no answer here
            WebSocketRoute("/ws/", sockets.answer),
            Route("/healthz", _healthy),
            Route("/readyz", _ready),
            Route("/", _page("index.html")),
            Route("/dashboard", _page("dashboard.html")),
            Route("/api/docs", _page("api_docs.html")),
            ELSEWHERE,
            Mount("/static", StaticFiles(packages=[("turnkeep", "web/static")]), name="static"),
        ],
    )
    asgi_app.state.openapi = document(ENDPOINTS)
    asgi_app.state.application = application
    asgi_app.state.peers = None
    asgi_app.state.sockets = sockets
    return asgi_app


def status_app(application: Application, *, access: Access | None = None) -> Starlette:
    """Whether a worker lives and how it is, for probes and Prometheus; nothing can be sent here."""
    access = access or OpenAccess()
    door = HttpDoor(application, CredentialWatch(access), Limits(application.settings, store=application.store))
    trail = Trail(application.store, application.meter, application.clock)
    asgi_app = Starlette(
        middleware=_middleware(application.settings, access, trail),
        exception_handlers={HTTPException: _no_such_route},
        routes=[door.route(METRICS_ENDPOINT), Route("/healthz", _healthy), Route("/readyz", _ready), ELSEWHERE],
    )
    asgi_app.state.application = application
    asgi_app.state.peers = asgi_app.state.sockets = None
    return asgi_app


async def _healthy(_: Request) -> Response:
    return PlainTextResponse("ok")


async def _ready(request: Request) -> Response:
    """Whether messages can be taken in; how full it is, where connections are counted here."""
    state = request.app.state
    try:
        await state.application.store.check()
    except StoreError as error:
        return error_response(error)
    application = state.application
    answer = {"ready": True, "engine": application.store.engine, "simulated": application.is_simulated}
    # whoever sends more would be refused after he has sent it all
    answer["frame_bytes"] = application.settings.max_frame_bytes
    if application.is_simulated:
        # so that the page can offer to try it
        answer["approvable"] = next((one.name for one in application.toolbox if one.needs_approval is True), None)
    return JsonResponse(answer if state.peers is None else answer | {"full": state.peers.were_full})


def _page(name: str) -> Callable[[Request], Awaitable[Response]]:
    async def show(_: Request) -> Response:
        text = (resources.files("turnkeep") / "web" / name).read_bytes()
        return Response(text, media_type="text/html; charset=utf-8", headers=PAGE_HEADERS)

    return show


def _middleware(settings: Settings, access: Access, trail: Trail) -> list[Middleware]:
    """What a request is, then host and origin; pages that are named may also read our answers."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(settings.origins),
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", *POLYFILLS, *SDK_HEADERS],
    )
    guard: Middleware = Middleware(Origins, settings, access, trail)
    strict, paths = Middleware(Strictness), Middleware(Paths)
    # Outermost first. Nobody decides about a request that two programs read differently; and a page
    # that may not call gets no leave by CORS. Paths last: the others look at the path
    # as it was decoded.
    return [strict, guard, cors, paths] if settings.origins else [strict, guard, paths]


async def _no_such_route(request: Request, error: Exception) -> Response:
    """Errors of the routing, in the form of all others."""
    if request.scope["path"].startswith("/v1/"):
        return no_such_route(request.scope["path"])
    status = error.status_code if isinstance(error, HTTPException) else 500
    code, sentence = NO_ROUTE if status == 404 else NO_METHOD
    headers = error.headers if isinstance(error, HTTPException) else None
    return JsonResponse({"error": {"code": code, "message": sentence}}, status_code=status, headers=headers)
