"""Where a promise is tried out: a fresh store, its clock, and short words for what every test does."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from turnkeep.errors import Rejection
from turnkeep.events import Event, EventKind, TurnFault
from turnkeep.messages import Address, AssistantItem, Content, Item, Message, UserItem, text_content
from turnkeep.store.contract import Store
from turnkeep.store.values import (
    Claim,
    Commit,
    Failure,
    HeldCall,
    MessageRecord,
    Policies,
    Policy,
    Receipt,
    Remainder,
    SettledOutcome,
    ThreadRecord,
    TranscriptEntry,
)
from turnkeep.testing.fake_clock import FakeClock
from turnkeep.usage import Usage

LEASE = 30.0
WINDOW = 2.0
MAX_WAIT = 8.0
POLICY = Policy(window=WINDOW, max_wait=MAX_WAIT)

TENANT, QUEUE, CHANNEL = "t", "q", "c"
HERE = Address(TENANT, QUEUE, CHANNEL)
WORKER = "worker-1"

FAULT = TurnFault("model_unavailable", "please try again", "status 503")
CALL = HeldCall("call_1", "pay", '{"amount": 5}', "digest-1")
OTHER_CALL = HeldCall("call_2", "book", "{}", "digest-2", kind="output")

STATES = ("idle", "waiting", "leased", "retry", "dissolved", "held")
"""States of a thread as tests bring it about; ``dissolved`` is retry without a batch."""

BUSY = ("leased", "retry", "dissolved", "held")


class Start(Protocol):
    """Gives a desk with a fresh, open store of these policies."""

    async def __call__(self, policy: Policy = POLICY, policies: Policies | None = None) -> Desk: ...


Make = Callable[[Policies, FakeClock], Awaitable[Store]]


def at(channel: str = CHANNEL, queue: str = QUEUE, tenant: str = TENANT) -> Address:
    return Address(tenant, queue, channel)


def said(message_id: str, content: str | Content | None = None, where: Address = HERE, **fields: Any) -> Message:
    """A message of a user; without words, ones that name it."""
    if not isinstance(content, tuple):
        content = text_content(f"text of {message_id}" if content is None else content)
    return Message(where, message_id, content, **fields)


def delta(text: str) -> Event:
    return Event("delta", text=text)


class Desk:
    def __init__(self, store: Store, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock

    @property
    def now(self) -> float:
        return self.clock.now()

    async def wait(self, seconds: float) -> None:
        await self.clock.run(seconds)

    # ---------------------------------------------------------------- in

    async def say(
        self, message_id: str, content: str | Content | None = None, where: Address = HERE, **fields: Any
    ) -> Receipt:
        """Accept one message; a refusal is raised."""
        [outcome] = await self.store.accept([said(message_id, content, where, **fields)])
        if isinstance(outcome, Rejection):
            raise outcome
        return outcome

    async def claim(self, owner: str = WORKER, lease: float = LEASE) -> Claim:
        """Take the one thread that is ready."""
        [claim] = await self.store.claim(owner=owner, limit=10, lease=lease)
        return claim

    async def claims(self, owner: str = WORKER, limit: int = 10, queues: Sequence[str] | None = None) -> list[Claim]:
        return await self.store.claim(owner=owner, limit=limit, lease=LEASE, queues=queues)

    async def is_claimable(self) -> bool:
        """Whether a claim succeeds now; the claim is kept."""
        return bool(await self.claims())

    async def lease(self, *message_ids: str, where: Address = HERE, owner: str = WORKER, **fields: Any) -> Claim:
        """These messages, taken by a worker."""
        for message_id in message_ids:
            await self.say(message_id, where=where, **fields)
        await self.store.flush(where)
        return await self.claim(owner)

    async def bring(self, state: str, where: Address = HERE) -> Claim | None:
        """Bring an absent thread into one of `STATES`, with the message ``old`` open in all but idle."""
        if state == "idle":
            await self.store.thread(where, create=True)
            return None
        if state == "waiting":
            await self.say("old", where=where)
            return None
        claim = await self.lease("old", where=where)
        if state == "retry":
            await self.store.fail(claim, retry(60.0))
        elif state == "dissolved":
            await self.store.release(claim, delay=60.0)
        elif state == "held":
            await self.store.hold(claim, [CALL], expires_in=600.0)
        return claim

    # ---------------------------------------------------------------- settling

    async def commit(
        self, claim: Claim, text: str = "answer", outcome: SettledOutcome = "completed", usage: Usage = Usage()
    ) -> Remainder:
        return await self.store.commit(claim, answer(claim, text, outcome, usage))

    # ---------------------------------------------------------------- looking

    async def thread(self, where: Address = HERE) -> ThreadRecord:
        record = await self.store.thread(where)
        assert record is not None, f"there is no thread at {where}"
        return record

    async def due_in(self, where: Address = HERE) -> float | None:
        due = (await self.thread(where)).due
        return None if due is None else due - self.now

    async def record(self, message_id: str, where: Address = HERE) -> MessageRecord:
        record = await self.store.message(where, message_id)
        assert record is not None, f"message {message_id!r} is not known"
        return record

    async def status(self, message_id: str, where: Address = HERE) -> str:
        return (await self.record(message_id, where)).status

    async def events(self, where: Address = HERE, after: int = 0) -> list[Event]:
        return list((await self.store.read(where, after=after, limit=100_000)).events)

    async def kinds(self, where: Address = HERE, after: int = 0) -> list[EventKind]:
        return [event.kind for event in await self.events(where, after)]

    async def last_event(self, where: Address = HERE) -> Event:
        return (await self.events(where))[-1]

    async def transcript(self, where: Address = HERE) -> list[Item]:
        return [entry.item for entry in (await self.store.history(where)).entries]

    async def waiting_ids(self, where: Address = HERE) -> list[str]:
        return [record.message_id for record in await self.store.open_messages(where)]

    async def dump(self, *places: Address, ids: Sequence[str] = ()) -> dict[str, Any]:
        """All that the read operations tell of these channels and of the whole store."""
        store = self.store
        found: dict[str, Any] = {"counts": await store.counts(), "dead": await store.dead(limit=100_000)}
        for where in places or (HERE,):
            found[f"thread {where}"] = await store.thread(where)
            found[f"open {where}"] = await store.open_messages(where)
            found[f"runs {where}"] = await store.runs(where)
            found[f"history {where}"] = await store.history(where)
            found[f"log {where}"] = await store.read(where, limit=100_000)
            for message_id in ids:
                found[f"message {message_id} {where}"] = await store.message(where, message_id)
        return found


def answer(claim: Claim, text: str = "answer", outcome: SettledOutcome = "completed", usage: Usage = Usage()) -> Commit:
    """What a run commits: the batch, one user item per message, and the answer."""
    asked = [TranscriptEntry(UserItem(m.content, m.message_id), tokens=1) for m in claim.messages]
    return Commit(outcome, text, [*asked, TranscriptEntry(AssistantItem(text), tokens=1)], usage, "model-1")


def retry(delay: float, *, effects: bool = False, usage: Usage = Usage()) -> Failure:
    return Failure(FAULT, delay, effects, usage)


def give_up(*, effects: bool = False, usage: Usage = Usage()) -> Failure:
    return Failure(FAULT, None, effects, usage)
