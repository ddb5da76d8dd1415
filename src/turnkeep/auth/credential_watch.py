"""The one watch over the credentials that open sockets and streams of a process rest on.

A timer for each, to ask twice a second, would be a twelfth of a core for a thousand streams in which
nothing is said. So credentials are counted as their users come and go, and each is asked after once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from turnkeep.auth.principals import Access, Principal
from turnkeep.clock import until_tick
from turnkeep.errors import NotAuthenticated, StoreError
from turnkeep.lean_dataclass import dataclass
from turnkeep.telemetry import get_log

log = get_log(__name__)

LOOK_AGAIN = 0.5
"""Seconds between two looks."""
LOOKS_AT_ONCE = 50
"""Credentials at one turn of the loop: a thousand would hold up all others for some milliseconds."""
ANSWER_WITHIN = 10.0
"""Seconds after which a question that nobody answers is asked again: a store that is away, or an `Access`
of others that hangs.
"""


class CredentialUser(Protocol):
    """Whatever ends with a credential."""

    principal: Principal
    """Whose it is; changed by `CredentialWatch.change_principal` alone."""

    def expel(self, reason: NotAuthenticated) -> None:
        """End it: the credential is over."""
        ...


@dataclass(slots=True, eq=False)
class StreamCredential:
    """What a stream rests on; whoever writes it looks at `end`."""

    principal: Principal
    on_end: Callable[[], object]
    end: NotAuthenticated | None = None
    """Why the stream may not go on."""

    def expel(self, reason: NotAuthenticated) -> None:
        self.end = reason
        self.on_end()


@dataclass(slots=True)
class _Credential:
    """A principal, and how many rest on it."""

    principal: Principal
    users: int = 0
    is_in_question: bool = False
    """Somebody waits for what `Access` says of it."""


class CredentialWatch:
    """Asks after the credentials of all that were added, as long as there is one."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._users: set[CredentialUser] = set()
        # By identity: where nobody is asked all have the same one, and a hash of its fields would
        # cost more than asking twice.
        self._credentials: dict[int, _Credential] = {}
        self._watching: asyncio.Task[None] | None = None

    def add(self, user: CredentialUser) -> None:
        self._users.add(user)
        self._count(user.principal, 1)
        if self._watching is None:
            self._watching = asyncio.create_task(self._run())  # noqa: TID251 - of no user: it ends with the last

    def remove(self, user: CredentialUser) -> None:
        """Safe for one that is not there any more."""
        if user in self._users:
            self._users.discard(user)
            self._count(user.principal, -1)
        if not self._users and self._watching is not None:
            self._watching.cancel()
            self._watching = None

    def change_principal(self, user: CredentialUser, principal: Principal) -> None:
        """It has shown another credential."""
        self._count(principal, 1)
        self._count(user.principal, -1)
        user.principal = principal

    @contextmanager
    def stream_of(self, principal: Principal, on_end: Callable[[], object]) -> Iterator[StreamCredential]:
        """Watch it to the end of the block; `on_end` wakes whoever waits in it."""
        credential = StreamCredential(principal, on_end)
        self.add(credential)
        try:
            yield credential
        finally:
            self.remove(credential)

    def _count(self, principal: Principal, step: int) -> None:
        credential = self._credentials.setdefault(id(principal), _Credential(principal))
        credential.users += step
        if not credential.users:
            del self._credentials[id(principal)]

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(until_tick(LOOK_AGAIN))
                rest = deque(one for one in self._credentials.values() if not one.is_in_question)
                # One question that is not answered must not hold up the others: while it waits, another
                # task goes on. Where all are answered at once it is one task for many.
                while rest:
                    group.create_task(self._ask(rest))
                    await asyncio.sleep(0)

    async def _ask(self, rest: deque[_Credential]) -> None:
        """Take some of these, and end what rests on those that are over."""
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                for _ in range(min(LOOKS_AT_ONCE, len(rest))):
                    if rest:  # others took some while this one waited
                        await self._look_at(rest.popleft())
        except TimeoutError:
            log.warning("credential_not_checked", error=f"no answer within {ANSWER_WITHIN:g} s")

    async def _look_at(self, credential: _Credential) -> None:
        credential.is_in_question = True
        try:
            reason = await self._refusal(credential.principal)
        finally:
            credential.is_in_question = False
        if reason is not None:
            self._expel(credential.principal, reason)

    def _expel(self, principal: Principal, reason: NotAuthenticated) -> None:
        for user in [one for one in self._users if one.principal is principal]:
            try:
                user.expel(reason)
            except Exception:  # of one: the others have to go as well
                log.exception("watch_broke", door="credentials")

    async def _refusal(self, principal: Principal) -> NotAuthenticated | None:
        try:
            await self.access.revalidate(principal)
        except NotAuthenticated as error:
            return error
        except StoreError as error:
            # Who was let in stays until somebody can be asked: a store that is away must not empty
            # the room.
            log.warning("credential_not_checked", error=error.code)
        except Exception:
            log.exception("watch_broke", door="credentials")
        return None
