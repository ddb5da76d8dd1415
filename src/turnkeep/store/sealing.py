"""A store whose engine never sees what people say: every body is sealed on its way in and opened on
its way out.

It stands before any engine and changes no promise of the contract. A store that was sealed once is
refused without a codec: else tokens would be shown to people and asked of models.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar, cast

from turnkeep.errors import MessageConflict, Rejection, StoreMisconfigured, StoreUnsealable, WrongState
from turnkeep.events import Event, TurnFault
from turnkeep.messages import Address, Content, Message, text_content
from turnkeep.store.contract import Follower, Store
from turnkeep.store.inbox_view import InboxView
from turnkeep.store.passages import Passage, TextSearch
from turnkeep.store.seal import Codec, Seal
from turnkeep.store.sinks import Delivery
from turnkeep.store.thread_search import ThreadSearch
from turnkeep.store.values import (
    Claim,
    Commit,
    DeadLetter,
    Decision,
    FailOutcome,
    Failure,
    HeldCall,
    History,
    MessageRecord,
    Notice,
    Page,
    Publication,
    Receipt,
    Record,
    Remainder,
    RunRecord,
    ThreadRecord,
    TranscriptEntry,
)

T = TypeVar("T")

_PLACE, _NAME = Address("", "", ""), "seal"
"""Where the document lies that says, sealed itself, that the store is sealed."""
_WORD = "sealed"


def seal_store(engine: Store, codec: Codec) -> Store:
    """The same store for whoever has a codec: the one of `aes`, or one of his own (a key service,
    another cipher).
    """
    return cast("Store", SealedStore(engine, codec))


def require_unsealed(engine: Store) -> Store:
    """The same store, which does not open if it was sealed."""
    return cast("Store", UnsealedStore(engine))


class _Before:
    """Passes on everything that is not defined here."""

    def __init__(self, engine: Store) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._engine, name)
        # Bound here once: `__getattr__` is asked only for what is not found.
        if callable(member):
            setattr(self, name, member)
        return member


class UnsealedStore(_Before):
    """An engine as it is."""

    async def open(self) -> None:
        await self._engine.open()
        # Looked for without a codec as well: else a deployment
        # that lost its keys shows tokens to people.
        if await self._engine.get("setting", "", _NAME) is not None:
            await self._engine.close()
            raise StoreMisconfigured("the store is sealed: set TURNKEEP_STORE_KEYS to the keys it was sealed with")


class SealedStore(_Before):
    """What an engine is told and tells, sealed and opened. See `seal` for what stays readable."""

    def __init__(self, engine: Store, codec: Codec) -> None:
        super().__init__(engine)
        self._codec = codec

    async def open(self) -> None:
        """Raises `StoreMisconfigured` where the keys are others than those of the store."""
        await self._engine.open()
        try:
            await self._check_keys()
        # A store that says no is closed again: its files and connections are nobody's otherwise.
        except BaseException:
            await self._engine.close()
            raise

    async def _check_keys(self) -> None:
        seal = self._seal(_PLACE)
        document = await self._engine.get("setting", "", _NAME)
        try:
            if document is not None and seal.open_text(str(document.body["word"])) != _WORD:
                raise StoreUnsealable("the word that says so does not open")
        except StoreUnsealable as error:
            raise StoreMisconfigured(f"TURNKEEP_STORE_KEYS are not the keys of this store: {error}") from None
        # Sealed anew with the first key at every start, so
        # that a key can be retired once nothing else uses it.
        await self._engine.put("setting", "", _NAME, {"word": seal.text(_WORD)})

    def _seal(self, address: Address, key: str | None = None) -> Seal:
        return Seal(self._codec, address, key=key)

    def _of(self, message: Message, key: str | None = None) -> Message:
        return self._seal(message.address, key).whole(message)

    async def accept(
        self, messages: Sequence[Message], *, create: bool = True, max_inbox: int | None = None
    ) -> list[Receipt | Rejection]:
        outcomes = await self._engine.accept([self._of(one) for one in messages], create=create, max_inbox=max_inbox)
        # Only after a conflict: repeats across a change of
        # keys are rare, every other send costs one try.
        for key in self._codec.keys[1:]:
            outcomes = await self._with_older(key, messages, outcomes, create=create, max_inbox=max_inbox)
        return outcomes

    async def _with_older(
        self, key: str, messages: Sequence[Message], outcomes: list[Receipt | Rejection], **options: Any
    ) -> list[Receipt | Rejection]:
        """A repeat of what was sealed with an older key looks like other content until it is sealed
        like that again.
        """
        places = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, MessageConflict)]
        if not places:
            return outcomes
        again = await self._engine.accept([self._of(messages[place], key) for place in places], **options)
        later = dict(zip(places, again, strict=True))
        return [later.get(place, outcome) for place, outcome in enumerate(outcomes)]

    async def claim(self, *, owner: str, limit: int, lease: float, queues: Sequence[str] | None = None) -> list[Claim]:
        claims = []
        for claim in await self._engine.claim(owner=owner, limit=limit, lease=lease, queues=queues):
            try:
                claims.append(self._seal(claim.address).unseal(claim))
            except StoreUnsealable as error:  # its neighbours go on
                fault = TurnFault(error.code, error.public, str(error))
                await self._engine.fail(claim, Failure(fault, None, effects=True))
        return claims

    async def begin(self, messages: Sequence[Message], *, owner: str, lease: float) -> Claim:
        claim = await self._engine.begin([self._of(one) for one in messages], owner=owner, lease=lease)
        return self._seal(claim.address).unseal(claim)

    async def offer_steering(self, claim: Claim) -> list[Message]:
        return self._seal(claim.address).unseal(await self._engine.offer_steering(claim))

    async def journal(self, claim: Claim, records: Sequence[Record]) -> None:
        seal = self._seal(claim.address)
        await self._engine.journal(claim, [seal.record(record) for record in records])

    async def commit(self, claim: Claim, commit: Commit) -> Remainder:
        seal = self._seal(claim.address)
        return await self._engine.commit(
            claim, replace(commit, text=seal.text(commit.text), entries=seal.whole(tuple(commit.entries)))
        )

    async def fail(self, claim: Claim, failure: Failure) -> FailOutcome:
        return await self._engine.fail(claim, self._seal(claim.address).whole(failure))

    async def release(self, claim: Claim, *, delay: float = 0.0, reason: TurnFault | None = None) -> None:
        reason_sealed = None if reason is None else self._seal(claim.address).whole(reason)
        await self._engine.release(claim, delay=delay, reason=reason_sealed)

    async def hold(
        self, claim: Claim, calls: Sequence[HeldCall], *, expires_in: float, published_count: int = 0
    ) -> None:
        sealed_calls = self._seal(claim.address).whole(tuple(calls))
        await self._engine.hold(claim, sealed_calls, expires_in=expires_in, published_count=published_count)

    async def decide(
        self, address: Address, call_id: str, digest: str, decision: Decision, *, once: str | None = None
    ) -> HeldCall:
        seal = self._seal(address)
        return seal.unseal(await self._engine.decide(address, call_id, digest, seal.whole(decision), once=once))

    async def withdraw(self, address: Address, message_id: str, *, once: str | None = None) -> MessageRecord:
        return self._seal(address).unseal(await self._engine.withdraw(address, message_id, once=once))

    async def edit(
        self, address: Address, message_id: str, content: Content, *, once: str | None = None
    ) -> MessageRecord:
        seal = self._seal(address)
        return seal.unseal(await self._engine.edit(address, message_id, seal.whole(content), once=once))

    async def message(self, address: Address, message_id: str) -> MessageRecord | None:
        return self._seal(address).unseal(await self._engine.message(address, message_id))

    async def dead(
        self,
        *,
        tenant: str | None = None,
        queue: str | None = None,
        channel: str | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[DeadLetter]:
        letters = await self._engine.dead(tenant=tenant, queue=queue, channel=channel, after=after, limit=limit)
        return [self._letter(letter) for letter in letters]

    async def dead_letter(self, dead_id: str) -> DeadLetter | None:
        letter = await self._engine.dead_letter(dead_id)
        return None if letter is None else self._letter(letter)

    def _letter(self, letter: DeadLetter) -> DeadLetter:
        """A letter that does not open is listed all the same: somebody has to find it."""
        try:
            return self._seal(letter.address).unseal(letter)
        except StoreUnsealable as error:
            content = text_content(f"({error})")
            return replace(letter, message=letter.message.but(content=content, metadata={}, instructions=None))

    async def publish(self, claim: Claim, n: int, events: Sequence[Event]) -> int:
        seal = self._seal(claim.address)
        return await self._engine.publish(claim, n, [seal.whole(event) for event in events])

    async def publish_many(self, publications: Sequence[Publication]) -> list[int | Exception]:
        return await self._engine.publish_many(
            [
                Publication(claim, n, [self._seal(claim.address).whole(event) for event in events])
                for claim, n, events in publications
            ]
        )

    def lane_of(self, address: Address) -> int:
        return self._engine.lane_of(address)

    async def read(self, address: Address, *, after: int = 0, limit: int = 1000) -> Page:
        return self._seal(address).unseal(await self._engine.read(address, after=after, limit=limit))

    @asynccontextmanager
    async def follow(self) -> AsyncIterator[Follower]:
        async with self._engine.follow() as follower:
            yield _UnsealingFollower(follower, self._codec)

    async def deliveries(self, sink: str, partition: int, *, after: str, limit: int) -> list[Delivery]:
        deliveries = await self._engine.deliveries(sink, partition, after=after, limit=limit)
        return [self._seal(one.address).unseal(one) for one in deliveries]

    async def parked_deliveries(self, sink: str, partition: int, positions: Sequence[str]) -> list[Delivery]:
        deliveries = await self._engine.parked_deliveries(sink, partition, positions)
        return [self._seal(one.address).unseal(one) for one in deliveries]

    async def thread(self, address: Address, *, create: bool = False, once: str | None = None) -> ThreadRecord | None:
        return self._seal(address).unseal(await self._engine.thread(address, create=create, once=once))

    async def open_messages(self, address: Address) -> list[MessageRecord]:
        return self._seal(address).unseal(await self._engine.open_messages(address))

    async def runs(self, address: Address) -> list[RunRecord]:
        return self._seal(address).unseal(await self._engine.runs(address))

    async def history(
        self,
        address: Address,
        *,
        tokens: int | None = None,
        items: int | None = None,
        before_turn: int | None = None,
        claim: Claim | None = None,
    ) -> History:
        history = await self._engine.history(address, tokens=tokens, items=items, before_turn=before_turn, claim=claim)
        return self._seal(address).unseal(history)

    async def append(
        self,
        address: Address,
        entries: Sequence[TranscriptEntry],
        *,
        author: str | None = None,
        inbox: InboxView | None = None,
        once: str | None = None,
    ) -> None:
        seal = self._seal(address)
        sealed_inbox = inbox and replace(inbox, entries=seal.whole(inbox.entries))
        await self._engine.append(address, seal.whole(tuple(entries)), author=author, inbox=sealed_inbox, once=once)

    async def compact(self, address: Address, *, through_turn: int, summary: str, once: str | None = None) -> None:
        token = self._seal(address).text(summary)
        await self._engine.compact(address, through_turn=through_turn, summary=token, once=once)

    async def update(self, address: Address, changes: Mapping[str, Any], *, once: str | None = None) -> ThreadRecord:
        seal = self._seal(address)
        tokens = {name: seal.values(value) if name == "metadata" else value for name, value in changes.items()}
        return seal.unseal(await self._engine.update(address, tokens, once=once))

    async def find_passages(self, query: TextSearch) -> list[Passage]:
        raise WrongState("what was said is sealed in this store, so that nobody can search it there")

    async def search(self, query: ThreadSearch) -> list[ThreadRecord]:
        return [self._listed_record(record) for record in await self._engine.search(query)]

    def _listed_record(self, record: ThreadRecord) -> ThreadRecord:
        """One that does not open is listed all the same, without its words: others are on the page."""
        try:
            return self._seal(record.address).unseal(record)
        except StoreUnsealable:
            return replace(record, metadata={}, summary=None, calls=())

    async def scan(
        self, *, tenant: str | None = None, queue: str | None = None, idle_for: float = 0.0
    ) -> AsyncIterator[ThreadRecord]:
        async for record in self._engine.scan(tenant=tenant, queue=queue, idle_for=idle_for):
            yield self._seal(record.address).unseal(record)


class _UnsealingFollower:
    """Opens what a follower is told."""

    def __init__(self, follower: Follower, codec: Codec) -> None:
        self._follower = follower
        self._codec = codec

    async def add(self, address: Address) -> None:
        await self._follower.add(address)

    async def discard(self, address: Address) -> None:
        await self._follower.discard(address)

    async def __aiter__(self) -> AsyncIterator[Notice]:
        async for notice in self._follower:
            yield Seal(self._codec, notice.address).unseal(notice)
