"""Where direct calls are answered: on the store of the sessions, or on one that forgets."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from turnkeep.errors import MessageFrozen, NotFound, StoreError, ThreadBusy, TurnkeepError
from turnkeep.events import Event
from turnkeep.lean_dataclass import dataclass
from turnkeep.messages import Address, Item, Message, OutputItem, UserItem, turns_of
from turnkeep.pricing.tokenizer import tokenizer_for
from turnkeep.runs.journal import Journal, Step
from turnkeep.runs.lease import Lease
from turnkeep.runs.outcomes import Verdict
from turnkeep.runs.run_context import RunContext
from turnkeep.runs.worker import Keeper
from turnkeep.service.request import DirectRequest
from turnkeep.store import Policies, Policy
from turnkeep.store.contract import Follower
from turnkeep.store.memory import MemoryStore
from turnkeep.store.values import Claim, Failure, TranscriptEntry
from turnkeep.telemetry import get_log
from turnkeep.usage import Usage

log = get_log(__name__)

LOOK_AGAIN = 1.0
"""Seconds after which a call that waits for a turn to end tries again, in case the hint of its end
was lost.
"""

NO_LIMIT = 1 << 40

NO_LIMITS = Policies(
    Policy(
        window=0.0,
        max_wait=0.0,
        max_batch=NO_LIMIT,
        max_batch_bytes=NO_LIMIT,
        max_inbox=NO_LIMIT,
        history_items=NO_LIMIT,
        history_bytes=NO_LIMIT,
        runs_kept=0,
    )
)


class ForgetfulStore(MemoryStore):
    """Where a call without a session lives: nobody follows its thread, so it keeps no log."""

    async def publish(self, claim: Claim, n: int, events: Sequence[Event]) -> int:
        return 0


@dataclass(frozen=True, slots=True)
class DirectCall:
    """A direct call that has begun."""

    lease: Lease
    own: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CallRunner:
    """Runs direct calls, on the store of the sessions or on one that forgets."""

    context: RunContext
    keeper: Keeper
    upkeep: tuple[asyncio.Task[None], ...]
    """What goes on as long as there may be runs: leases are renewed, events published."""
    remembers: bool

    async def begin(
        self, request: DirectRequest, address: Address, metadata: Mapping[str, str], wait: float
    ) -> DirectCall:
        """Take the messages in and the claim, in one act.

        Raises `ThreadBusy` when the wait is over.
        """
        await self.context.prepare(one.content for one in (*request.past, *request.new) if isinstance(one, UserItem))
        await self._lay_out(request.past, address)
        messages = [
            Message(address, f"msg_{secrets.token_hex(12)}", item.content, metadata=metadata, minted=True)
            for item in request.new
        ]
        # once: as instructions of each message they would be said as often
        messages[-1] = messages[-1].but(instructions=request.instructions)
        lease = await self._begin(messages, wait)
        records = await self._catch_up(request.since, lease.claim)
        if records:
            lease.claim = replace(lease.claim, journal=tuple(records))
        return DirectCall(lease, tuple(message.message_id for message in messages))

    async def tidy(self, call: DirectCall, verdict: Verdict) -> None:
        """Leave nothing behind that somebody else would take for a message to be answered."""
        address = call.lease.claim.address
        try:
            if not self.remembers:
                await self.context.store.forget(address, force=True)
            elif isinstance(verdict, Failure):
                for message_id in call.own:
                    with suppress(NotFound, MessageFrozen):
                        await self.context.store.withdraw(address, message_id)
        except StoreError as error:
            log.warning("direct_call_not_tidied", run_id=call.lease.claim.run_id, error=str(error))

    async def _begin(self, messages: Sequence[Message], wait: float) -> Lease:
        # without a follower at first: mostly nothing is in progress there
        try:
            return await self.keeper.begin(messages)
        except ThreadBusy:
            if wait <= 0:
                raise
        try:
            async with asyncio.timeout(wait):
                return await self._begin_when_free(messages)
        except TimeoutError:
            raise ThreadBusy(f"a run was in progress on the thread for all of {wait:g} s") from None

    async def _begin_when_free(self, messages: Sequence[Message]) -> Lease:
        """Try again whenever a turn ends there, and now and then."""
        address = messages[0].address
        outcome: Lease | TurnkeepError | None = None
        turn_end = asyncio.Event()
        async with self.context.store.follow() as follower, asyncio.TaskGroup() as group:
            await follower.add(address)
            hearing = group.create_task(_hear(follower, turn_end))
            while outcome is None:
                turn_end.clear()
                try:
                    outcome = await self.keeper.begin(messages)
                except ThreadBusy:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(turn_end.wait(), LOOK_AGAIN)
                # carried out of the group, which would wrap it
                except TurnkeepError as error:
                    outcome = error
            hearing.cancel()
        if isinstance(outcome, TurnkeepError):
            raise outcome
        return outcome

    async def _lay_out(self, past: Sequence[Item], address: Address) -> None:
        """Put the past of a call without a session where a run recalls it, turn by turn."""
        count = tokenizer_for(self.context.assistants.blank.model, self.context.catalog).count_item
        for turn in turns_of(past):
            await self.context.store.append(address, [TranscriptEntry(item, count(item)) for item in turn])

    async def _catch_up(self, since: Sequence[Item], claim: Claim) -> list[Mapping[str, Any]]:
        """Journal what the caller has done since the question, as if this run had done it."""
        if not since:
            return []
        records: list[Mapping[str, Any]] = []
        journal = Journal(self.context.store, claim, tell=records.append)
        answer_items = tuple(item for item in since if not isinstance(item, OutputItem))
        await journal.write_step(Step(answer_items, "", Usage(), "calls", self.context.assistants.blank.model))
        for item in since:
            if isinstance(item, OutputItem):
                await journal.write_output(item)
        return records


async def _hear(follower: Follower, turn_end: asyncio.Event) -> None:
    """Note when a turn has ended, or may have."""
    async for notice in follower:
        if not notice.events or any(event.is_final for event in notice.events):
            turn_end.set()
