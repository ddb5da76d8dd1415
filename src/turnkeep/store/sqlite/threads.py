"""The records behind the channels, in the SQLite engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from turnkeep.errors import ThreadBusy, ThreadQuarantined
from turnkeep.messages import Address
from turnkeep.store import turns
from turnkeep.store.contract import History, MessageRecord, Receipt, RunRecord, Stats, ThreadRecord, TranscriptEntry
from turnkeep.store.ids import new_message_stem
from turnkeep.store.records import current_run, is_over, message_record, slides, thread_record
from turnkeep.store.sqlite import aging, rows
from turnkeep.store.sqlite import history as transcript
from turnkeep.store.sqlite import view as counting
from turnkeep.store.sqlite.codec import restore
from turnkeep.store.sqlite.connection import every
from turnkeep.store.sqlite.engine import Engine
from turnkeep.store.sqlite.once import Once
from turnkeep.store.sqlite.rows import ThreadRow, run_from_json
from turnkeep.store.sqlite.transaction import Transaction
from turnkeep.store.sqlite.view import View

_PAGE = 200
"""Threads that `scan` reads at once."""


class SqliteThreads(Engine):
    """The threads protocol."""

    async def thread(self, address: Address, *, create: bool = False, once: str | None = None) -> ThreadRecord | None:
        def look(view: View) -> tuple[ThreadRecord, bool] | None:
            kept = view.find(address)
            return None if kept is None else (_shown(view, kept), _slides(view, kept))

        found = None if once and create else await self.read_from(look)
        if found is not None and not found[1]:
            return found[0]
        if found is None and not create:
            return None
        return await self._slid(address, create=create, once=Once.of(once, "thread", address) if create else None)

    async def _slid(self, address: Address, *, create: bool, once: Once | None = None) -> ThreadRecord | None:
        """The thread after its expiry was moved; made if need be and asked."""

        def act(tx: Transaction) -> ThreadRecord | None:
            kept = tx.find_or_new(address) if create else tx.find(address)
            if kept is None:
                return None
            kept.thread.active_at = tx.now
            tx.save(kept)
            return _shown(tx, kept)

        return await self.write(act, once=once)

    async def open_messages(self, address: Address) -> list[MessageRecord]:
        def look(view: View) -> list[MessageRecord]:
            if (kept := view.find(address)) is None:
                return []
            ids = [opened.message.message_id for opened in (*kept.thread.inbox, *kept.thread.delayed)]
            known = [(message_id, view.find_accepted(kept, message_id)) for message_id in ids]
            return [message_record(kept.thread, message_id, k) for message_id, k in known if k is not None]

        return await self.read_from(look)

    async def runs(self, address: Address) -> list[RunRecord]:
        def look(view: View) -> list[RunRecord]:
            if (kept := view.find(address)) is None:
                return []
            found = every(
                view.connection,
                "SELECT body FROM run WHERE thread = ? ORDER BY id DESC LIMIT ?",
                (kept.row, view.policy(kept).runs_kept),
            )
            ended = [restore("run", run_from_json, body) for (body,) in found]
            current = current_run(kept.thread)
            return [current, *ended] if current else ended

        return await self.read_from(look)

    async def history(
        self, address: Address, *, tokens: int | None = None, items: int | None = None, before_turn: int | None = None
    ) -> History:
        def look(view: View) -> tuple[History, bool]:
            if (kept := view.find(address)) is None:
                return History((), None, complete=True), False
            found = transcript.history(view.connection, kept, tokens=tokens, items=items, before_turn=before_turn)
            return found, _slides(view, kept)

        history, slides_now = await self.read_from(look)
        if slides_now:
            await self._slid(address, create=False)
        return history

    # ---------------------------------------------------------------- changing

    async def append(
        self,
        address: Address,
        entries: Sequence[TranscriptEntry],
        *,
        author: str | None = None,
        once: str | None = None,
    ) -> None:
        def rule(tx: Transaction, kept: ThreadRow) -> None:
            turns.append(kept.thread, entries, author, tx.now)

        await self.on_any(address, rule, once=Once.of(once, "append", address, entries, author))

    async def regenerate(self, address: Address, *, once: str | None = None) -> list[Receipt]:
        stem = new_message_stem(self._ids)

        def rule(tx: Transaction, kept: ThreadRow) -> list[Receipt]:
            asked = transcript.last_turn_asked(tx.connection, kept.row)
            receipts = turns.regenerate(kept.thread, asked, stem, tx.policy(kept), tx.now)
            tx.mark()
            transcript.remove(tx.connection, kept, beginning=asked[0].turn)
            return receipts

        return await self.on(address, rule, once=Once.of(once, "regenerate", address))

    async def compact(self, address: Address, *, through_turn: int, summary: str, once: str | None = None) -> None:
        def rule(tx: Transaction, kept: ThreadRow) -> None:
            tx.mark()
            kept.thread.summary = summary
            kept.thread.active_at = tx.now
            transcript.remove(tx.connection, kept, through=through_turn)

        await self.on(address, rule, "ending", once=Once.of(once, "compact", address, through_turn, summary))

    async def update(self, address: Address, changes: Mapping[str, Any], *, once: str | None = None) -> ThreadRecord:
        def rule(tx: Transaction, kept: ThreadRow) -> ThreadRecord:
            turns.update(kept.thread, changes, tx.now)
            return _shown(tx, kept)

        return await self.on(address, rule, once=Once.of(once, "update", address, changes))

    # ---------------------------------------------------------------- all of them

    async def scan(
        self, *, tenant: str | None = None, queue: str | None = None, idle_for: float = 0.0
    ) -> AsyncIterator[ThreadRecord]:
        last = 0
        while True:
            page, last = await self.read_from(lambda view, after=last: _page(view, after, tenant, queue, idle_for))  # type: ignore[misc]
            for record in page:
                yield record
            if last < 0:
                return

    async def stats(self, *, tenant: str | None = None, queue: str | None = None) -> Stats:
        return await self.read_from(lambda view: counting.stats(view, tenant, queue))

    async def forget(self, address: Address, *, force: bool = False, once: str | None = None) -> bool:
        return await self.write(
            lambda tx: _forget(tx, address, force=force), "ending", Once.of(once, "forget", address, force)
        )

    async def expire(self, *, limit: int = 100) -> int:
        count, working = await self.write(lambda tx: aging.expire(tx, limit), "ending")
        self.use().hub.forget_nudges(working)
        return count


def _shown(view: View, kept: ThreadRow) -> ThreadRecord:
    return thread_record(kept.thread, view.policy(kept))


def _slides(view: View, kept: ThreadRow) -> bool:
    return slides(kept.thread, view.policy(kept), view.now)


def _page(
    view: View, after: int, tenant: str | None, queue: str | None, idle_for: float
) -> tuple[list[ThreadRecord], int]:
    """Some threads, and from where on the next ones are (-1: that was the last page). Damaged ones are left out."""
    found = every(
        view.connection,
        "SELECT id FROM thread WHERE id > ?1 AND (?2 IS NULL OR tenant = ?2) AND (?3 IS NULL OR queue = ?3)"
        " AND (?6 = 0 OR active_at <= ?4) ORDER BY id LIMIT ?5",
        (after, tenant, queue, view.now - idle_for, _PAGE, idle_for),
    )
    page: list[ThreadRecord] = []
    for (row,) in found:
        with suppress(ThreadQuarantined):
            kept = rows.load(view.connection, row, view.setup.incarnation)
            if not is_over(kept.thread, view.policy(kept), view.now):
                page.append(_shown(view, kept))
    return page, found[-1][0] if len(found) == _PAGE else -1


def _forget(tx: Transaction, address: Address, *, force: bool) -> bool:
    """A damaged thread can be forgotten too, by force."""
    found = rows.find(tx.connection, address)
    if found is not None and _is_there(tx, address, force=force):
        tx.erase_row(found.row, found.address)
        _forget_letters(tx, found.address)
        return True
    return _forget_letters(tx, address if found is None else found.address) > 0


def _is_there(tx: Transaction, address: Address, *, force: bool) -> bool:
    """Whether there is a thread to forget. Raises `ThreadBusy` while it is not to be forgotten."""
    try:
        kept = tx.find(address)
    except ThreadQuarantined:
        if not force:
            raise
        return True
    if kept is not None and (kept.thread.inbox or kept.thread.delayed) and not force:
        raise ThreadBusy("messages are open on this channel, wait for their answer or force it")
    return kept is not None


def _forget_letters(tx: Transaction, address: Address) -> int:
    """Dead letters outlive their thread: those of a channel, or of the thread that the channel names."""
    tx.mark()
    tx.connection.execute(
        "DELETE FROM dead WHERE tenant = ?1 AND queue = ?2 AND (channel = ?3 OR thread_id = ?3)",
        (address.tenant, address.queue, address.channel),
    )
    return tx.connection.changes()
