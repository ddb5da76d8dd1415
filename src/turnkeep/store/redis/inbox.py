"""The inbox protocol of the Redis engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

from turnkeep.errors import (
    Conflict,
    InvalidMessage,
    MessageConflict,
    MessageFrozen,
    NotFound,
    Rejection,
    ThreadBusy,
    WrongState,
)
from turnkeep.events import TurnFault
from turnkeep.messages import Address, Content, Message
from turnkeep.store import rules_accept
from turnkeep.store.contract import EventGap
from turnkeep.store.ids import new_epoch, new_run_id, new_token, partition_of
from turnkeep.store.redis.claiming import RedisClaims
from turnkeep.store.redis.codec import (
    add_checksum,
    call_row,
    content_bytes,
    dump,
    exact,
    fault_argument,
    flag,
    message_row,
    number,
    parse_json,
    read_calls,
    read_claim,
    read_message_record,
    read_messages,
    read_receipt,
    read_version,
    turn_argument,
    usage_argument,
    words,
)
from turnkeep.store.redis.key_names import ThreadKeys, to_bytes, to_text
from turnkeep.store.redis.part import full, not_found, status_word, unless_lost
from turnkeep.store.redis.tick_group import ThreadAct, TickGroup
from turnkeep.store.rules_change import unfit
from turnkeep.store.values import (
    Claim,
    Commit,
    Decision,
    FailOutcome,
    Failure,
    HeldCall,
    MessageRecord,
    Receipt,
    Record,
    Remainder,
)


class RedisInbox(RedisClaims):
    """Messages on their way to a committed answer."""

    @cached_property
    def _accepts(self) -> TickGroup:
        return TickGroup(partial(self._run_grouped, "accept"), self._shelf)

    @cached_property
    def _commits(self) -> TickGroup:
        return TickGroup(partial(self._run_grouped, "commit"), self._shelf)

    async def accept(
        self, messages: Sequence[Message], *, create: bool = True, max_inbox: int | None = None
    ) -> list[Receipt | Rejection]:
        if any(message.not_before is not None for message in messages):
            await self.now()  # how far the store is ahead of the time of day, as it is set now
            messages = [rules_accept.by_store_time(message, self._of_day) for message in messages]
        # By thread and not by address: the id of a thread and its channel are one inbox, and the
        # messages of a thread are taken in one act, in their order.
        places: dict[ThreadKeys, list[int]] = {}
        for place, message in enumerate(messages):
            address = message.address
            keys = await self._resolve(address) if address.names_thread else self._keys.thread(address)
            places.setdefault(keys, []).append(place)
        terms = (flag(create), b"" if max_inbox is None else b"%d" % max_inbox)
        acts = [self._accept_act(keys, [messages[place] for place in here], terms) for keys, here in places.items()]
        answers = await self._accepts.do(acts)
        outcomes: dict[int, Receipt | Rejection] = {}
        for here, answer in zip(places.values(), answers, strict=True):
            own = [messages[place] for place in here]
            is_gone = isinstance(answer, list) and answer[0] == b"gone"
            rows = await self._accept_again(own, terms) if is_gone else answer
            if isinstance(rows, Exception):
                raise rows
            outcomes |= zip(here, map(_receipt_or_refusal, rows, own), strict=True)
        return [outcomes[place] for place in range(len(messages))]

    def _accept_act(self, keys: ThreadKeys, messages: Sequence[Message], terms: tuple[bytes, bytes]) -> ThreadAct:
        address = messages[0].address
        want = b"" if keys.address == address else to_bytes(address.channel)
        policy = self._policy(address.queue)
        thread_id, epoch = self._new_thread_id(address), new_epoch(self._ids)
        head = (policy, keys.space, keys.channel, want, to_bytes(thread_id), epoch.encode(), *terms)
        return ThreadAct(keys, tuple(map(message_row, messages)), head, (want, policy, *terms))

    async def _accept_again(self, messages: Sequence[Message], terms: tuple[bytes, bytes]) -> Any:
        """The id meant another thread than the remembered channel (it was forgotten and made
        again): the script says so before it touches anything.
        """
        address = messages[0].address
        self._channels.pop(address, None)
        [answer] = await self._accepts.do([self._accept_act(self._keys.thread(address), messages, terms)])
        return answer

    async def begin(self, messages: Sequence[Message], *, owner: str, lease: float) -> Claim:
        if not messages:
            raise InvalidMessage("there is no message to begin with, give at least one")
        # Before the claim: a stop that comes right after it is a nudge to hear.
        await self._hear_hints()
        immediate = [message.but(flush=True, not_before=None) for message in messages]
        rows = [value for message in immediate for value in message_row(message)]
        token, run_id = new_token(self._ids).encode(), new_run_id(self._ids).encode()
        address = messages[0].address
        self._note_claim(owner, (await self._resolve(address)).partition.index)
        keys, reply = await self._make("begin", address, to_bytes(owner), exact(lease), token, run_id, *rows)
        if status_word(reply) == "claim":
            async with self._reading(keys):
                return read_claim(keys, reply)
        if status_word(reply) == "conflict":
            message_id = messages[reply[1] - 1].message_id
            raise MessageConflict(f"message id {message_id!r} was used before, use a new id")
        if status_word(reply) == "full":
            raise full(reply[1])
        if status_word(reply) == "crowded":
            raise ThreadBusy("the messages that wait already do not fit one batch with these, wait for their answer")
        raise ThreadBusy("a run is in progress or the thread is paused, wait or send a message instead")

    async def offer_steering(self, claim: Claim) -> list[Message]:
        reply = unless_lost(claim, await self._run_as_owner("offer_steering", claim))
        async with self._reading(self._keys.thread(claim.address)):
            return list(read_messages(claim.address, reply[1]))

    async def journal(self, claim: Claim, records: Sequence[Record]) -> None:
        rows: list[bytes] = []
        for record in records:
            through = record.get("steered_through")
            rows += [b"%d" % record["n"], add_checksum(dump(dict(record))), b"" if through is None else b"%d" % through]
        reply = unless_lost(claim, await self._run_as_owner("journal", claim, *rows))
        if status_word(reply) == "gap":
            raise ValueError(f"journal record {reply[1]} comes after {reply[2]} records, write them in order")

    async def commit(self, claim: Claim, commit: Commit) -> Remainder:
        model = b"" if commit.model is None else b',"model":' + dump(commit.model)
        keys, policy = self._keys.thread(claim.address), self._policy(claim.address.queue)
        row = (
            policy, to_bytes(claim.thread_id), claim.token.encode(), commit.outcome, to_bytes(commit.text),
            turn_argument(commit.entries), usage_argument(commit.usage), model, commit.published_count,
        )  # fmt: skip
        [reply] = await self._commits.do([ThreadAct(keys, (row,))])
        if isinstance(reply, Exception):
            raise reply
        if status_word(reply) == "gap":
            raise EventGap(commit.published_count, reply[1])
        _, messages, due, *version = unless_lost(claim, reply)
        return Remainder(messages, number(due), read_version(version[0]) if version else None)

    async def fail(self, claim: Claim, failure: Failure) -> FailOutcome:
        reply = await self._run_as_owner(
            "fail", claim, flag(claim.stop is not None), fault_argument(failure.fault), exact(failure.retry_in),
            flag(failure.effects), usage_argument(failure.usage), b"%02x" % partition_of(claim.address),
            self._ids("dead")[-8:].encode(),
        )  # fmt: skip
        outcome: FailOutcome = words(unless_lost(claim, reply)[0])  # type: ignore[assignment]  # one of the three
        return outcome

    async def release(self, claim: Claim, *, delay: float = 0.0, reason: TurnFault | None = None) -> None:
        unless_lost(claim, await self._run_as_owner("release", claim, exact(delay), fault_argument(reason)))

    async def hold(
        self, claim: Claim, calls: Sequence[HeldCall], *, expires_in: float, published_count: int = 0
    ) -> None:
        rows = [value for call in calls for value in call_row(call)]
        reply = await self._run_as_owner("hold", claim, exact(expires_in), b"%d" % published_count, *rows)
        if status_word(reply) == "gap":
            raise EventGap(published_count, reply[1])
        unless_lost(claim, reply)

    async def decide(
        self, address: Address, call_id: str, digest: str, decision: Decision, *, once: str | None = None
    ) -> HeldCall:
        verdict = (decision.verdict, dump(decision.output), dump(decision.by))
        operation = self._operation(once, "decide", address, call_id, digest, decision)
        keys, reply = await self._find("decide", address, operation, to_bytes(call_id), to_bytes(digest), *verdict)
        if status_word(reply) == "call":
            async with self._reading(keys):
                return read_calls([parse_json(reply[1], "call")])[0]
        raise _decision_error(address, call_id, reply)

    async def cancel(self, address: Address, *, drop_inbox: bool = False, once: str | None = None) -> bool:
        operation = self._operation(once, "cancel", address, drop_inbox)
        _, reply = await self._find("cancel", address, operation, flag(drop_inbox))
        return status_word(reply) == "ok" and bool(reply[1])

    async def withdraw(self, address: Address, message_id: str, *, once: str | None = None) -> MessageRecord:
        operation = self._operation(once, "withdraw", address, message_id)
        keys, reply = await self._find("withdraw", address, operation, to_bytes(message_id))
        async with self._reading(keys):
            return _read_change(keys, address, message_id, reply)

    async def edit(
        self, address: Address, message_id: str, content: Content, *, once: str | None = None
    ) -> MessageRecord:
        # Size and text as of any message, by the class that defines them.
        draft = Message(address, message_id, content)
        keys, reply = await self._find(
            "edit", address, self._operation(once, "edit", address, message_id, content), to_bytes(message_id),
            content_bytes(content), b"%d" % draft.size, to_bytes(draft.text),
        )  # fmt: skip
        async with self._reading(keys):
            return _read_change(keys, address, message_id, reply)

    async def flush(self, address: Address, *, once: str | None = None) -> bool:
        _, reply = await self._find("flush", address, self._operation(once, "flush", address))
        return status_word(reply) == "ok" and bool(reply[1])

    async def typing(self, address: Address, *, once: str | None = None) -> float | None:
        _, reply = await self._find("typing", address, self._operation(once, "typing", address))
        return number(reply[1]) if status_word(reply) == "ok" else None

    async def pause(self, address: Address, *, once: str | None = None) -> None:
        await self._make("pause", address, self._operation(once, "pause", address))

    async def resume(self, address: Address, *, once: str | None = None) -> None:
        await self._find("resume", address, self._operation(once, "resume", address))

    async def message(self, address: Address, message_id: str) -> MessageRecord | None:
        keys, reply = await self._find("message", address, to_bytes(message_id))
        async with self._reading(keys):
            return read_message_record(keys.address, reply) if status_word(reply) == "message" else None


def _receipt_or_refusal(answer: Sequence[Any], message: Message) -> Receipt | Rejection:
    kind = status_word(answer)
    if kind == "receipt":
        receipt = read_receipt(answer, message.message_id)
        # an id that we minted can only come back because its first receipt was lost
        return replace(receipt, repeated=False) if message.minted else receipt
    if kind == "conflict":
        return MessageConflict(f"message id {message.message_id!r} was used for another text, use a new id")
    if kind == "full":
        return full(answer[1])
    if kind == "absent":
        return not_found(message.address)
    return ThreadBusy("a run is in progress and the policy is reject, send again when it has ended")


def _decision_error(address: Address, call_id: str, reply: Sequence[Any]) -> Rejection:
    kind = status_word(reply)
    if kind == "absent":
        return not_found(address)
    if kind == "unknown":
        return NotFound(f"no call {call_id!r} waits on this thread")
    if kind == "changed":
        return Conflict(
            f"call {call_id!r} has other arguments (digest {to_text(reply[1])}), decide on what is asked now"
        )
    if kind == "decided":
        return Conflict(f"call {call_id!r} was decided already: {words(reply[1])}")
    if kind == "unfit":
        return unfit(call_id, words(reply[1]))
    return WrongState(f"call {call_id!r} waits no longer, its run is being stopped")


def _read_change(keys: ThreadKeys, address: Address, message_id: str, reply: Sequence[Any]) -> MessageRecord:
    kind = status_word(reply)
    if kind == "message":
        return read_message_record(keys.address, reply)
    if kind == "absent":
        raise not_found(address)
    if kind == "unknown":
        raise NotFound(f"no message {message_id!r} is known on this channel")
    state = "being answered" if kind == "frozen" else words(reply[1])
    raise MessageFrozen(f"message {message_id!r} is {state}, send a new one")
