"""The records behind the channels, in memory."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from turnkeep.errors import ThreadBusy
from turnkeep.messages import Address
from turnkeep.store import rules_change, rules_claim
from turnkeep.store.ids import new_message_stem, new_run_id
from turnkeep.store.inbox_view import InboxView
from turnkeep.store.memory.once import once_only
from turnkeep.store.memory.state import MemoryState, StoredThread, draft_of, is_from
from turnkeep.store.passages import MOST_ENTRIES, Passage, TextSearch, passage_in
from turnkeep.store.records import ages, current_run, is_over, message_record, slides, thread_record
from turnkeep.store.thread_search import ThreadSearch, fits, newest_threads
from turnkeep.store.transcript import last_user_turn, newest
from turnkeep.store.values import (
    Claim,
    History,
    MessageRecord,
    Receipt,
    RunRecord,
    Stats,
    ThreadRecord,
    TranscriptEntry,
)
from turnkeep.usage import Usage


class MemoryThreads(MemoryState):
    """Transcripts, metadata, expiry."""

    @once_only
    async def thread(self, address: Address, *, create: bool = False, once: str | None = None) -> ThreadRecord | None:
        now = self.moment()
        slot = self.find_or_new(address, now) if create else self.find(address, now)
        if slot is None:
            return None
        self._slide(slot, now)
        return thread_record(slot.thread, slot.policy)

    def _slide(self, slot: StoredThread, now: float) -> None:
        # A thread that was only made to be shown has to
        # be kept, or its id would be another next time.
        is_new = slot.thread.address not in self.threads
        if is_new or slides(slot.thread, slot.policy, now):
            self.keep(slot, replace(draft_of(slot.thread), active_at=now), now)

    async def open_messages(self, address: Address) -> list[MessageRecord]:
        if (slot := self.find(address, self.moment())) is None:
            return []
        ids = [o.message.message_id for o in [*slot.thread.inbox, *slot.thread.delayed]]
        return [message_record(slot.thread, message_id, slot.accepted_ids[message_id]) for message_id in ids]

    async def runs(self, address: Address) -> list[RunRecord]:
        if (slot := self.find(address, self.moment())) is None:
            return []
        current = current_run(slot.thread)
        return [current, *slot.runs] if current else list(slot.runs)

    async def history(
        self,
        address: Address,
        *,
        tokens: int | None = None,
        items: int | None = None,
        before_turn: int | None = None,
        claim: Claim | None = None,
    ) -> History:
        now = self.moment()
        slot = self.find(address, now)
        if claim is not None:
            rules_claim.check_lease(slot.thread if slot is not None else None, claim)
        if slot is None:
            return History((), None, complete=True)
        self._slide(slot, now)
        return newest(slot.transcript, slot.thread.summary, tokens=tokens, items=items, before_turn=before_turn)

    async def append(
        self,
        address: Address,
        entries: Sequence[TranscriptEntry],
        *,
        author: str | None = None,
        inbox: InboxView | None = None,
        once: str | None = None,
    ) -> None:
        # Beside the arguments, which name the operation: its repeat has read another inbox. The id
        # is drawn for a repeat too, as in `regenerate`.
        self._answering = (inbox, new_run_id(self.ids)) if inbox is not None else None
        await self._append(address, entries, author=author, once=once)

    @once_only
    async def _append(
        self,
        address: Address,
        entries: Sequence[TranscriptEntry],
        *,
        author: str | None = None,
        once: str | None = None,
    ) -> None:
        now, answering = self.moment(), self._answering
        slot = self.find_or_new(address, now)
        if answering is None:
            return self.apply(slot, lambda t: rules_change.append(t, entries, author, now), now)
        inbox, run_id = answering
        names: dict[str, Any] = {"author": author, "run_id": run_id}
        return self.apply(slot, lambda t: rules_change.answer(t, inbox, entries, slot.policy, now, **names), now)

    async def regenerate(self, address: Address, *, once: str | None = None) -> list[Receipt]:
        # Drawn for a repeat too, as the engines do that cannot know yet whether it is one: else
        # their later ids would not be the same.
        self._stem = new_message_stem(self.ids)
        return await self._regenerate(address, once=once)

    @once_only
    async def _regenerate(self, address: Address, *, once: str | None = None) -> list[Receipt]:
        now, stem = self.moment(), self._stem
        slot = self.get_thread(address, now)
        last_turn = last_user_turn(slot.transcript)
        receipts = self.apply(slot, lambda t: rules_change.regenerate(t, last_turn, stem, slot.policy, now), now)
        slot.keep_transcript([e for e in slot.transcript if e.turn < last_turn[0].turn])
        return receipts

    @once_only
    async def compact(self, address: Address, *, through_turn: int, summary: str, once: str | None = None) -> None:
        now = self.moment()
        slot = self.get_thread(address, now)
        self.apply(slot, lambda t: rules_change.compact(t, summary, now), now)
        slot.keep_transcript([e for e in slot.transcript if e.turn > through_turn])

    @once_only
    async def update(self, address: Address, changes: Mapping[str, Any], *, once: str | None = None) -> ThreadRecord:
        now = self.moment()
        slot = self.get_thread(address, now)
        self.apply(slot, lambda t: rules_change.update(t, changes, now), now)
        return thread_record(slot.thread, slot.policy)

    async def scan(
        self, *, tenant: str | None = None, queue: str | None = None, idle_for: float = 0.0
    ) -> AsyncIterator[ThreadRecord]:
        now = self.moment()
        for slot in self.living(tenant, queue, now):
            if not idle_for or slot.thread.active_at <= now - idle_for:
                yield thread_record(slot.thread, slot.policy)

    async def search(self, query: ThreadSearch) -> list[ThreadRecord]:
        now = self.moment()
        if query.tenant is None or query.queue is None:
            living = self.living(query.tenant, query.queue, now)
            return newest_threads((thread_record(slot.thread, slot.policy) for slot in living), query)
        result: list[ThreadRecord] = []
        for address in reversed(self.by_activity.get((query.tenant, query.queue), {})):
            slot = self.threads[address]
            # those of one moment are put in order by their ids
            if len(result) >= query.limit and slot.thread.active_at < result[-1].active_at:
                break
            if not is_over(slot.thread, slot.policy, now):
                record = thread_record(slot.thread, slot.policy)
                result += [record] if fits(record, query) else []
        return newest_threads(result, query)

    async def find_passages(self, query: TextSearch) -> list[Passage]:
        living = self.living(query.tenant, query.queue, self.moment())
        entries = ((slot.thread.address, entry) for slot in living for entry in slot.transcript)
        newest = heapq.nlargest(MOST_ENTRIES, entries, key=lambda pair: pair[1].at)
        passages = (passage_in(address, entry, query.text) for address, entry in newest)
        return [passage for passage in passages if passage is not None][: query.limit]

    async def stats(self, *, tenant: str | None = None, queue: str | None = None) -> Stats:
        now = self.moment()
        threads = [slot.thread for slot in self.living(tenant, queue, now)]
        active = [thread.active_at for thread in threads]
        return Stats(
            threads=len(threads),
            messages=sum(thread.messages for thread in threads),
            turns=sum(thread.turns for thread in threads),
            ages=ages(active, now),
            oldest=min(active, default=None),
            newest=max(active, default=None),
            storage=sum(thread.bytes for thread in threads),
            usage=sum((thread.usage for thread in threads), Usage()),
        )

    @once_only
    async def forget(self, address: Address, *, force: bool = False, once: str | None = None) -> bool:
        now = self.moment()
        slot = self.find(address, now)
        if slot is not None:
            if (slot.thread.inbox or slot.thread.delayed) and not force:
                raise ThreadBusy("messages are open on this channel, wait for their answer or force it")
            address = slot.thread.address
            self.delete(slot, now)
        dead_ids = {dead_id for dead_id, letter in self.letters.items() if is_from(letter, address)}
        # Letters are of the channel, not of the thread:
        # they may outlive it, so they are looked for apart.
        for dead_id in dead_ids:
            del self.letters[dead_id]
        return slot is not None or bool(dead_ids)

    def expire_threads(self, limit: int, now: float) -> int:
        """Delete idle threads whose time is over, and what has aged in others; how many threads."""
        over = [slot for slot in self.threads.values() if is_over(slot.thread, slot.policy, now)][:limit]
        for slot in over:
            self.delete(slot, now)
        for address, accepted_ids in [*self.past.items()]:
            self.past[address] = {
                i: k for i, k in accepted_ids.items() if k.forget_at is not None and k.forget_at > now
            }
            if not self.past[address]:
                del self.past[address]
        for slot in self.threads.values():
            # Of living threads too: one that is never idle would remember ids for ever.
            slot.accepted_ids = {i: k for i, k in slot.accepted_ids.items() if slot.known_id(i, now)}
            slot.log.trim(slot.thread.live_from, slot.policy, now)
        return len(over)
