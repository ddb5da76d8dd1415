"""The threads protocol of the Redis engine: the records behind channels, and their transcripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from turnkeep.errors import Conflict, InvalidMessage, NotFound, Rejection, ThreadBusy, ThreadQuarantined
from turnkeep.messages import Address, AssistantItem
from turnkeep.store import rules_change
from turnkeep.store.ids import new_message_stem, new_run_id
from turnkeep.store.inbox_view import InboxView
from turnkeep.store.redis.codec import (
    add_checksum,
    check_checksum,
    dump,
    exact,
    flag,
    message_row,
    read_message_record,
    read_receipt,
    read_run,
    read_thread,
    read_turn,
    turn_argument,
)
from turnkeep.store.redis.key_names import to_bytes, to_text
from turnkeep.store.redis.part import RedisPart, full, not_found, status_word, unless_lost
from turnkeep.store.transcript import last_user_turn
from turnkeep.store.values import (
    Claim,
    History,
    MessageRecord,
    Receipt,
    RunRecord,
    ThreadOptions,
    ThreadRecord,
    TranscriptEntry,
)

PAGE = 100
ROUNDS = 5
"""How often a turn to answer again is read anew, because others changed the transcript."""


class RedisThreads(RedisPart):
    """The records behind the channels."""

    async def thread(self, address: Address, *, create: bool = False, once: str | None = None) -> ThreadRecord | None:
        operation = self._operation(once, "thread", address) if create else b""
        async with self._durable_writes(address) if create else nullcontext():
            keys, reply = await self._make("thread", address, operation, flag(create), flag(True))
        if create and status_word(reply) == "absent":  # it was made before, and forgotten since
            raise not_found(address)
        async with self._reading(keys):
            return read_thread(reply, self._policies.of(address.queue)) if status_word(reply) == "thread" else None

    async def open_messages(self, address: Address) -> list[MessageRecord]:
        keys, reply = await self._find("open", address)
        async with self._reading(keys):
            return (
                [read_message_record(keys.address, answer) for answer in reply[1:]]
                if status_word(reply) == "open"
                else []
            )

    async def runs(self, address: Address) -> list[RunRecord]:
        keys, reply = await self._find("runs", address)
        async with self._reading(keys):
            return [read_run(row) for row in reply[1:]] if status_word(reply) == "runs" else []

    async def history(
        self,
        address: Address,
        *,
        tokens: int | None = None,
        items: int | None = None,
        before_turn: int | None = None,
        claim: Claim | None = None,
    ) -> History:
        limits = (b"" if limit is None else b"%d" % limit for limit in (tokens, items, before_turn))
        token = b"" if claim is None else claim.token.encode()
        keys, reply = await self._find("history", address, *limits, token)
        if claim is not None:
            unless_lost(claim, reply)
        if status_word(reply) != "history":
            return History((), None, complete=True)
        _, complete, summary, *turns = reply
        async with self._reading(keys):
            entries = [entry for turn in reversed(turns) for entry in read_turn(turn)]
            summary_text = to_text(check_checksum(summary, "summary")) if summary else None
        return History(tuple(entries), summary_text, bool(complete))

    async def append(
        self,
        address: Address,
        entries: Sequence[TranscriptEntry],
        *,
        author: str | None = None,
        inbox: InboxView | None = None,
        once: str | None = None,
    ) -> None:
        operation = self._operation(once, "append", address, entries, author)
        words = dump(author or "")
        if inbox is not None:
            await self._answer(address, inbox, entries, operation, words)
            return
        texts = [e.item.text for e in entries if author is not None and isinstance(e.item, AssistantItem)]
        _, reply = await self._make("append", address, operation, turn_argument(entries), words, *map(to_bytes, texts))
        if status_word(reply) == "busy":
            raise ThreadBusy(rules_change.RUN_IN_PROGRESS)

    async def _answer(
        self, address: Address, inbox: InboxView, entries: Sequence[TranscriptEntry], operation: bytes, author: bytes
    ) -> None:
        _, reply = await self._make(
            "answer", address, operation, turn_argument([*inbox.entries, *entries]), author,
            new_run_id(self._ids).encode(), b"%d" % len(inbox.entries), b"%d" % inbox.top, inbox.thread_id.encode(),
            to_bytes(rules_change.said_in(entries)),
        )  # fmt: skip
        if status_word(reply) == "busy":
            raise ThreadBusy(rules_change.RUN_IN_PROGRESS)
        if status_word(reply) == "moved":
            raise Conflict(rules_change.INBOX_CHANGED)

    async def regenerate(self, address: Address, *, once: str | None = None) -> list[Receipt]:
        """Messages made here from the turn as read; the script takes them only in its place."""
        operation, stem = self._operation(once, "regenerate", address), new_message_stem(self._ids)
        for _ in range(ROUNDS):
            request = last_user_turn((await self.history(address)).entries)
            messages = rules_change.repeat_messages(address, request, stem)
            rows = [value for message in messages for value in message_row(message)]
            _, reply = await self._find("regenerate", address, operation, request[0].turn if request else 0, *rows)
            if status_word(reply) == "receipts":
                return [
                    read_receipt(answer, to_text(name)) for name, answer in zip(reply[1::2], reply[2::2], strict=True)
                ]
            if status_word(reply) != "moved":
                # Anything but "moved" is an answer; a transcript that changed
                # meanwhile is read again.
                raise _not_again(address, reply)
        raise ThreadBusy("the transcript was changed each time it was read, send it again")

    async def compact(self, address: Address, *, through_turn: int, summary: str, once: str | None = None) -> None:
        operation = self._operation(once, "compact", address, through_turn, summary)
        _, reply = await self._find(
            "compact", address, operation, b"%d" % through_turn, add_checksum(to_bytes(summary))
        )
        if status_word(reply) == "absent":
            raise not_found(address)

    async def update(self, address: Address, changes: Mapping[str, Any], *, once: str | None = None) -> ThreadRecord:
        if unknown_names := set(changes) - {"assistant", "metadata", "options", "ttl"}:
            if await self.thread(address) is None:
                raise not_found(address)
            raise InvalidMessage(
                f"a thread has no {', '.join(sorted(unknown_names))}, change assistant, metadata, options or ttl"
            )
        operation = self._operation(once, "update", address, changes)
        keys, reply = await self._find("update", address, operation, *_changes(changes))
        if status_word(reply) == "absent":
            raise not_found(address)
        async with self._reading(keys):
            return read_thread(reply, self._policies.of(address.queue))

    async def forget(self, address: Address, *, force: bool = False, once: str | None = None) -> bool:
        operation = self._operation(once, "forget", address, force)
        try:
            _, reply = await self._meet(
                "forget", address, lambda keys, want: (want, operation, flag(force), keys.space, keys.channel)
            )
        except ThreadQuarantined:
            if not force:
                raise
            keys = await self._resolve(address)
            # `forget` reads the record, which is damaged: `wipe` goes by the keys alone.
            reply = await self._run_despite_damage("wipe", keys, self._now(), operation, keys.space, keys.channel)
        if status_word(reply) == "busy":
            raise ThreadBusy("messages are open on this channel, wait for their answer or force it")
        return status_word(reply) == "ok" and bool(reply[1])


def _not_again(address: Address, reply: Sequence[Any]) -> Rejection:
    """Why a turn is not answered again."""
    if status_word(reply) == "absent":
        return not_found(address)
    if status_word(reply) == "full":
        return full(reply[1])
    return (
        ThreadBusy(rules_change.OTHERS_WAIT) if status_word(reply) == "busy" else NotFound(rules_change.NOTHING_ASKED)
    )


def _changes(changes: Mapping[str, Any]) -> list[bytes]:
    """What is to be changed of a thread, as the script takes it."""
    options = changes.get("options")
    own = options if isinstance(options, ThreadOptions) else ThreadOptions(**(options or {}))
    metadata = changes.get("metadata") or {}
    row = [
        _assistant(changes),
        flag("options" in changes),
        exact(own.window),
        exact(own.max_wait),
        (own.on_busy or "").encode(),
        exact(changes.get("ttl")),
    ]
    for name, value in metadata.items():
        row += [to_bytes(name), b"" if value is None else dump(value)]
    return row


def _assistant(changes: Mapping[str, Any]) -> bytes:
    if "assistant" not in changes:
        return b""
    return b"-" if changes["assistant"] is None else b"+" + to_bytes(changes["assistant"])
