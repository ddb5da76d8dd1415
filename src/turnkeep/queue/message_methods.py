"""Messages: sending one, asking for its answer, and changing one that waits."""

from __future__ import annotations

from typing import Any, Unpack

from turnkeep.application import Application
from turnkeep.errors import InvalidMessage, NotFound, Rejection
from turnkeep.inputs import read_content, read_message
from turnkeep.messages import Content
from turnkeep.queue.answer_wait import AnswerWait
from turnkeep.seconds import SecondsLimit
from turnkeep.spelling import strangers_sentence
from turnkeep.store.values import MessageRecord, Receipt
from turnkeep.streams import EventStream
from turnkeep.wishes import Wishes

ANSWER_TIMEOUT = SecondsLimit(7_200.0)


class MessageMethods(Application):
    """What is done to messages."""

    async def add_message_to_thread(
        self,
        thread_id: str,
        text: str | Content,
        instructions: str | None = None,
        message_id: str | None = None,
        *,
        tenant: str = "default",
        **wishes: Unpack[Wishes],
    ) -> Receipt:
        """Take one message in durably; the thread is created if it is new.

        Without a `message_id` one is minted, and the receipt says that this send is not idempotent.
        `wishes` are those of `Wishes`. Raises `Rejection`: `InvalidMessage` for what no door takes.
        """
        options = ("instructions", "message_id", "tenant", *Wishes.__annotations__)
        if strangers := [name for name in wishes if name not in options]:
            raise InvalidMessage(strangers_sentence("a message", strangers, options))
        content = _body(text)
        body = {**content, "message_id": message_id, "instructions": instructions, **wishes}
        fields = {name: value for name, value in body.items() if value is not None}
        # through the same check as what comes in at a door, so that no caller can store what a door would refuse
        message = read_message(fields, self.address(thread_id, tenant), limit=self.settings.max_message_bytes)
        await self.open()
        if self._hooks:
            await self._hooks.watch(message.address)
        [outcome] = await self.accept([message])
        if isinstance(outcome, Rejection):
            raise outcome
        return outcome

    async def ask(
        self,
        thread_id: str,
        text: str | Content,
        *,
        timeout: float = 300.0,
        instructions: str | None = None,
        message_id: str | None = None,
        tenant: str = "default",
        **wishes: Unpack[Wishes],
    ) -> str:
        """Send and wait for the answer that covers this message, as text.

        Nothing waits for a window, unless `flush=False`. Raises `Rejection` (`NotFound`: it was
        withdrawn), `NoAnswer`, a `TimeoutError` that says what the answer waits for, or
        `TurnkeepError` when the message is dead. What was sent stays sent in any case.
        """
        ANSWER_TIMEOUT.check("timeout", timeout)
        await self.open()
        wishes.setdefault("flush", True)
        # subscribed before it is sent: an answer may come faster than a subscription
        async with EventStream(self.hub, self.store, self.address(thread_id, tenant)) as events:
            receipt = await self.add_message_to_thread(
                thread_id, text, instructions, message_id, tenant=tenant, **wishes
            )
            wait = AnswerWait(receipt, queue=self.name, has_worker=self.has_worker)
            return await wait.read(events, timeout)

    async def create_message(self, thread_id: str, text: str, *, message_id: str | None = None) -> Receipt:
        """Add a message that waits until `create_run` (or another message's window) ends its wait."""
        # longer than anybody waits: the store knows no message without a window, `create_run` ends
        # this one
        return await self.add_message_to_thread(
            thread_id, text, message_id=message_id, window=3600.0, max_wait=86_400.0
        )

    async def get_message(self, thread_id: str, message_id: str, *, tenant: str = "default") -> MessageRecord:
        """What became of a message. Raises `NotFound`: there is none, or it was forgotten."""
        await self.open()
        record = await self.store.message(self.address(thread_id, tenant), message_id)
        if record is None:
            raise NotFound(f"there is no message {message_id!r} on thread {thread_id!r}, or it was forgotten")
        return record

    async def list_open_messages(self, thread_id: str, *, tenant: str = "default") -> list[MessageRecord]:
        """What no run has answered yet: the inbox in order, then what was planned for later."""
        await self.open()
        return await self.store.open_messages(self.address(thread_id, tenant))

    async def edit(
        self, thread_id: str, message_id: str, text: str | Content, *, tenant: str = "default", once: str | None = None
    ) -> MessageRecord:
        """Change a message until a run has begun to answer it.

        Raises `NotFound`, `MessageFrozen` (too late), `InvalidMessage`.
        """
        content = read_content(_body(text), limit=self.settings.max_message_bytes)
        await self.open()
        return await self.store.edit(self.address(thread_id, tenant), message_id, content, once=once)

    async def withdraw(
        self, thread_id: str, message_id: str, *, tenant: str = "default", once: str | None = None
    ) -> MessageRecord:
        """Take a message back until a run has begun to answer it. Again: the same record.

        Raises `NotFound`, `MessageFrozen` (too late).
        """
        await self.open()
        return await self.store.withdraw(self.address(thread_id, tenant), message_id, once=once)

    async def typing(self, thread_id: str, *, tenant: str = "default") -> float | None:
        """Somebody is typing there: the window is moved on, never beyond its longest wait. Seconds
        until the turn begins; None if nothing waits.
        """
        await self.open()
        return await self.store.typing(self.address(thread_id, tenant))


def _body(text: str | Content) -> dict[str, Any]:
    """What is said, in the form in which doors get it."""
    return {"content": [part.to_json() for part in text]} if isinstance(text, tuple) else {"message": text}
