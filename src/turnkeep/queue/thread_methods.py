"""Threads: their records, their transcripts, finding and forgetting them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from turnkeep.application import Application
from turnkeep.errors import InvalidMessage, ThreadNotFound
from turnkeep.inputs import read_metadata
from turnkeep.messages import Item
from turnkeep.store.clearing import forget_at_work
from turnkeep.store.passages import Passage, TextSearch
from turnkeep.store.thread_search import ThreadPlace, ThreadSearch
from turnkeep.store.values import ThreadRecord
from turnkeep.thread_options import thread_options
from turnkeep.usage import Usage

LEAST_SEARCH = 2


class ThreadMethods(Application):
    """What is done to threads."""

    async def get_thread(self, thread_id: str, *, tenant: str = "default") -> ThreadRecord:
        """The record of a thread: state, counts, metadata, usage, calls that wait.

        Raises `ThreadNotFound`.
        """
        await self.open()
        record = await self.store.thread(self.address(thread_id, tenant))
        if record is None:
            raise ThreadNotFound(f"there is no thread {thread_id!r}")
        return record

    async def change_thread(
        self,
        thread_id: str,
        *,
        metadata: Mapping[str, str | None] | None = None,
        options: Mapping[str, Any] | None = None,
        assistant: str | None = None,
        tenant: str = "default",
        once: str | None = None,
    ) -> ThreadRecord:
        """Change what is given; None as a value of `metadata` removes it.

        `options` are all that the thread has of its own from now on: on_busy, window, max_wait, or
        a preset. Raises `ThreadNotFound`, `NotFound`, `InvalidMessage`.
        """
        await self.open()
        changes: dict[str, Any] = {} if metadata is None else {"metadata": read_metadata(metadata)}
        if options is not None:
            changes["options"] = thread_options(options)
        if assistant is not None:
            changes["assistant"] = (await self.assistants.get(tenant, assistant)).assistant_id
        return await self.store.update(self.address(thread_id, tenant), changes, once=once)

    async def list_messages(self, thread_id: str, *, limit: int | None = None, tenant: str = "default") -> list[Item]:
        """The transcript, oldest first; the newest whole turns of at most `limit` entries."""
        if limit is not None and limit < 0:
            raise InvalidMessage(f"limit is {limit}, use a number from 0 on or leave it out")
        await self.open()
        history = await self.store.history(self.address(thread_id, tenant), items=limit)
        return [entry.item for entry in history.entries]

    async def list_threads(
        self,
        *,
        search: str = "",
        place: ThreadPlace | None = None,
        after: ThreadRecord | None = None,
        limit: int = 100,
        tenant: str = "default",
    ) -> list[ThreadRecord]:
        """The threads of this queue, most recently active first.

        `search`: only those that have this text in their channel, id or metadata; `place`: only
        those in this state (idle, waiting, leased, held, paused …); `after`: those behind the last
        one seen.
        """
        if limit < 0:
            raise InvalidMessage(f"limit is {limit}, use a number from 0 on")
        await self.open()
        before = (after.active_at, after.thread_id) if after else None
        query = ThreadSearch(tenant=tenant, queue=self.name, place=place, text=search, before=before, limit=limit)
        return [*await self.store.search(query)] if limit else []

    async def answer_as(
        self, thread_id: str, text: str, *, author: str, tenant: str = "default", once: str | None = None
    ) -> None:
        """Say something in the assistant's place, as a person who has taken over; who follows the
        thread is told who it was. The messages that wait are answered by it, as one turn.

        Raises `ThreadBusy` while a run is in progress, `ThreadNotFound`.
        """
        record = await self.get_thread(thread_id, tenant=tenant)
        await self.say(record.address, text, author=author, once=once)

    async def search(self, text: str, *, limit: int = 50, tenant: str = "default") -> list[Passage]:
        """What messages and answers say of a text, newest first, out of a bounded number of the newest.

        Raises `InvalidMessage`, and `WrongState` where texts are sealed.
        """
        if len(text.strip()) < LEAST_SEARCH:
            raise InvalidMessage(f"the text to look for has at least {LEAST_SEARCH} characters")
        await self.open()
        return await self.store.find_passages(TextSearch(text.strip(), tenant, self.name, limit=limit))

    async def get_usage(self, thread_id: str | None = None, *, tenant: str = "default") -> Usage:
        """What a thread has used, or all threads of this queue: requests, tokens, money.

        Raises `ThreadNotFound`.
        """
        if thread_id is not None:
            return (await self.get_thread(thread_id, tenant=tenant)).usage
        await self.open()
        return (await self.store.stats(tenant=tenant, queue=self.name)).usage

    async def forget(
        self, thread_id: str, *, force: bool = False, tenant: str = "default", once: str | None = None
    ) -> bool:
        """Delete a thread and every word of it. False if there is none.

        Raises `ThreadBusy` while messages are open there, unless `force` withdraws them and stops
        the run first.
        """
        await self.open()
        address = self.address(thread_id, tenant)
        if force:
            return await forget_at_work(self.store, address, once=once)
        return await self.store.forget(address, once=once)
