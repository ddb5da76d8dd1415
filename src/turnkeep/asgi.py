"""Mounts turnkeep into a FastAPI or Starlette application, or serves it under any ASGI server.

Three parts, each of use alone: `lifespan` (or `running`) keeps a queue open as long as the
application lives, `app` is all doors of a queue to be mounted, and `queue_of` hands the queue to
the routes around it.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any

from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from turnkeep.application import Application
from turnkeep.auth.api_keys import ApiKeys
from turnkeep.auth.guard import Guard, OpenGuard, access_of
from turnkeep.auth.principals import Access, Credentials, OpenAccess, Principal, is_open, look
from turnkeep.auth.tickets import Tickets
from turnkeep.doors.app import app as doors
from turnkeep.doors.origin import came_through_proxy
from turnkeep.doors.other_systems import outside
from turnkeep.doors.separation import demand_separation
from turnkeep.errors import ConfigurationError, NotAllowed, NotAuthenticated
from turnkeep.queue import AssistantMessageQueue

__all__ = ["Access", "OpenAccess", "Principal", "Who", "app", "lifespan", "queue_of", "running"]

Who = Callable[[HTTPConnection], Awaitable[Principal | None]]
"""Says who a request or a socket is, by whatever the application around knows them;
None: nobody it knows.
"""

STATE = "turnkeep"
# a guard is given credentials alone, but the application around us knows people by their request
_connection: ContextVar[HTTPConnection] = ContextVar("turnkeep_connection")


def app(queue: AssistantMessageQueue, *, access: Access | Who | None = None, worker: bool = True) -> Starlette:
    """All doors of a queue: `/api`, `/ws`, the playground.

    Mounted, it opens the queue at the first request, unless `lifespan` has; served alone it opens
    and closes it.

    `access` is who may do what: an `Access`, or a function of the request. Without one the queue's
    settings and API keys say it, and where they say nothing only this machine is answered.
    """
    application = doors(queue, access=_access(queue, access), own_application=False)
    application.router.lifespan_context = lifespan(queue, worker=worker)
    application.add_middleware(_OpenApplication, application=queue)
    return application


def lifespan(
    queue: AssistantMessageQueue, *, worker: bool = True
) -> Callable[[Any], contextlib.AbstractAsyncContextManager[Mapping[str, Any]]]:
    """For `FastAPI(lifespan=…)`: see `running`."""
    return lambda _: running(queue, worker=worker)


@contextlib.asynccontextmanager
async def running(queue: AssistantMessageQueue, *, worker: bool = True) -> AsyncIterator[Mapping[str, Any]]:
    """The queue is open until the end of the block, with the doors to other systems that are set,
    then drains.

    With `worker` this process answers messages too. Yields the state that a lifespan of one's own
    yields on, so that `queue_of` finds the queue.
    """
    if worker:
        queue.start_worker()
    async with queue, outside(queue):
        await demand_separation(queue)
        yield {STATE: queue}


def queue_of(connection: HTTPConnection) -> AssistantMessageQueue:
    """The queue of the application, for `Depends(queue_of)`.

    Raises `ConfigurationError` without its lifespan.
    """
    queue = connection.scope.get("state", {}).get(STATE)
    if not isinstance(queue, AssistantMessageQueue):
        raise ConfigurationError("the application has no queue: make it with lifespan=turnkeep.asgi.lifespan(queue)")
    return queue


def _access(application: Application, access: Access | Who | None) -> Access:
    if access is None:
        return _SettingsAccess(application)
    return _CallerAccess(application, access) if callable(access) else access


class _CallerAccess(Guard):
    """Asks the application around. Tickets and sessions that were given for its answer count too."""

    def __init__(self, application: Application, who: Who) -> None:
        super().__init__(ApiKeys(application.store), Tickets(application.store))
        self._who = who

    async def _identify(self, credentials: Credentials) -> Principal:
        if credentials.bearer is None and (credentials.ticket or credentials.session):
            return await super()._identify(credentials)
        principal = await self._who(_connection.get())
        # not open: an application that says who people are means that strangers stay outside
        if principal is None:
            raise NotAuthenticated("the application does not know who this is")
        return principal


class _SettingsAccess(Guard):
    """Asks for credentials where there are any, and else answers this machine alone."""

    def __init__(self, application: Application) -> None:
        super().__init__(ApiKeys(application.store), Tickets(application.store))
        self._application = application
        self._choice: Access | None = None

    @property
    def is_open(self) -> bool:
        return self._choice is not None and is_open(self._choice)

    async def look(self) -> None:
        await look(await self._access())

    async def authenticate(self, credentials: Credentials) -> Principal:
        access = await self._access()
        principal = await access.authenticate(credentials)
        if is_open(access) and not self._application.settings.insecure_no_auth:
            _only_this_machine(_connection.get())
        return principal

    async def revalidate(self, principal: Principal) -> None:
        await (await self._access()).revalidate(principal)

    async def _access(self) -> Access:
        """Decided at the first request, when the store is open."""
        if self._choice is None:
            self._choice = await self._decide()
        return self._choice

    async def _decide(self) -> Access:
        settings = self._application.settings
        if settings.is_open_aloud:
            return OpenAccess()
        if settings.takes_tokens or settings.auth == "on" or settings.start_token or await self.keys.has_any():
            return await access_of(settings.model_copy(update={"auth": "on"}), self._application.store)
        return OpenGuard(self.keys, self.tickets)


def _only_this_machine(connection: HTTPConnection) -> None:
    """Raises `NotAllowed`."""
    host = connection.client.host if connection.client else ""
    with contextlib.suppress(ValueError):
        version = connection.scope.get("http_version", "1.1")
        # behind a proxy on this machine everybody comes from the loopback
        if ipaddress.ip_address(host).is_loopback and not came_through_proxy(connection.headers, version):
            return
    raise NotAllowed(
        "only this machine is answered while nothing says who may: give access= to turnkeep.asgi.app, or make a key"
    )


class _OpenApplication:
    """An ASGI application around ours, which it opens, with the request at hand for whoever
    authenticates it.
    """

    def __init__(self, inner: ASGIApp, application: Application) -> None:
        self._inner = inner
        self._application = application

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            # mounted, nobody tells us that the application has started: its first request does
            await self._application.open()
            _connection.set(HTTPConnection(scope))
        await self._inner(scope, receive, send)
