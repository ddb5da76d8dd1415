"""The records behind the channels, in the SQLite engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Any

from turnkeep.errors import StoreError, ThreadBusy, ThreadQuarantined
from turnkeep.messages import Address, item_from_json
from turnkeep.store import rules_change, rules_claim
from turnkeep.store.ids import new_message_stem, new_run_id
from turnkeep.store.inbox_view import InboxView
from turnkeep.store.passages import Passage, TextSearch, passage_in
from turnkeep.store.records import current_run, is_over, message_record, slides, thread_record
from turnkeep.store.sqlite import event_log, layout, passage_index, rows
from turnkeep.store.sqlite import history as transcript
from turnkeep.store.sqlite import view as counting
from turnkeep.store.sqlite.codec import encode, restore
from turnkeep.store.sqlite.connection import every
from turnkeep.store.sqlite.dead_letters import forget_letters
from turnkeep.store.sqlite.engine import Engine
from turnkeep.store.sqlite.once import Once
from turnkeep.store.sqlite.rows import ThreadRow, run_from_json
from turnkeep.store.sqlite.transaction import Transaction
from turnkeep.store.sqlite.view import View
from turnkeep.store.thread_search import ThreadSearch, fits
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
from turnkeep.telemetry import get_log

log = get_log(__name__)

_PAGE = 200
"""Threads that `scan` reads at once."""

_ROWS = 10_000
"""Rows of other kinds than threads that one call removes or looks at, at most."""
_END_OF_TIME = 1 << 62
_STEPS = 20
"""Acts by which one search indexes what was said."""

_NUDGE = 60.0
_BUCKET = 60.0

# by the index of one tenant and queue; of others, which no page asks for, all are ordered
_NEWEST = (
    "SELECT id FROM thread WHERE {within}"
    " AND (:place IS NULL OR CASE WHEN paused THEN 'paused' ELSE state END = :place)"
    " AND (:at IS NULL OR (active_at, thread_id) < (:at, :thread_id))"
    " AND (:text = '' OR instr(lower(channel), :text) OR instr(thread_id, :text) OR instr(lower(head), :text))"
    " ORDER BY active_minute DESC, active_at DESC, thread_id DESC LIMIT :most"
)
_NEWEST_OF_ONE = _NEWEST.format(within="tenant = :tenant AND queue = :queue AND active_minute <= :minute")
_NEWEST_OF_SOME = _NEWEST.format(within="(:tenant IS NULL OR tenant = :tenant) AND (:queue IS NULL OR queue = :queue)")


class SqliteThreads(Engine):
    """The threads protocol."""

    async def thread(self, address: Address, *, create: bool = False, once: str | None = None) -> ThreadRecord | None:
        def look(view: View) -> tuple[ThreadRecord, bool] | None:
            thread_row = view.find(address)
            return None if thread_row is None else (_record(view, thread_row), _slides(view, thread_row))

        # a look first: most calls change nothing, and leave the writer to those that do
        result = None if once and create else await self.read_from(look)
        if result is not None and not result[1]:
            return result[0]
        if result is None and not create:
            return None
        return await self._move_expiry(
            address, create=create, once=Once.of(once, "thread", address) if create else None
        )

    async def _move_expiry(self, address: Address, *, create: bool, once: Once | None = None) -> ThreadRecord | None:
        """The thread after its expiry was moved; made if need be and asked."""

        def act(tx: Transaction) -> ThreadRecord | None:
            thread_row = tx.find_or_new(address) if create else tx.find(address)
            if thread_row is None:
                return None
            thread_row.thread.active_at = tx.now
            tx.save(thread_row)
            return _record(tx, thread_row)

        return await self.write(act, once=once)

    async def open_messages(self, address: Address) -> list[MessageRecord]:
        def look(view: View) -> list[MessageRecord]:
            if (thread_row := view.find(address)) is None:
                return []
            ids = [
                inbox_message.message.message_id
                for inbox_message in (*thread_row.thread.inbox, *thread_row.thread.delayed)
            ]
            accepted_ids = [(message_id, view.find_accepted(thread_row, message_id)) for message_id in ids]
            return [message_record(thread_row.thread, message_id, k) for message_id, k in accepted_ids if k is not None]

        return await self.read_from(look)

    async def runs(self, address: Address) -> list[RunRecord]:
        def look(view: View) -> list[RunRecord]:
            if (thread_row := view.find(address)) is None:
                return []
            records = every(
                view.connection,
                "SELECT body FROM run WHERE thread = ? ORDER BY id DESC LIMIT ?",
                (thread_row.row, view.policy(thread_row).runs_kept),
            )
            runs = [restore("run", run_from_json, body) for (body,) in records]
            current = current_run(thread_row.thread)
            return [current, *runs] if current else runs

        return await self.read_from(look)

    async def history(
        self,
        address: Address,
        *,
        tokens: int | None = None,
        items: int | None = None,
        before_turn: int | None = None,
        claim: Claim | None = None,
    ) -> History:
        def look(view: View) -> tuple[History, bool]:
            thread_row = view.find(address)
            if claim is not None:
                rules_claim.check_lease(thread_row.thread if thread_row is not None else None, claim)
            if thread_row is None:
                return History((), None, complete=True), False
            result = transcript.history(
                view.connection, thread_row, tokens=tokens, items=items, before_turn=before_turn
            )
            return result, _slides(view, thread_row)

        history, slides_now = await self.read_from(look)
        if slides_now:
            await self._move_expiry(address, create=False)
        return history

    async def append(
        self,
        address: Address,
        entries: Sequence[TranscriptEntry],
        *,
        author: str | None = None,
        inbox: InboxView | None = None,
        once: str | None = None,
    ) -> None:
        # drawn here, as in `regenerate`
        run_id = new_run_id(self._ids) if inbox is not None else ""

        def rule(tx: Transaction, thread_row: ThreadRow) -> None:
            thread, policy = thread_row.thread, tx.policy(thread_row)
            if inbox is None:
                rules_change.append(thread, entries, author, tx.now)
            else:
                rules_change.answer(thread, inbox, entries, policy, tx.now, author=author, run_id=run_id)

        await self.change_or_make(address, rule, once=Once.of(once, "append", address, entries, author))

    async def regenerate(self, address: Address, *, once: str | None = None) -> list[Receipt]:
        # here and not in the rule: when a group fails its acts are done again, and have to come to
        # the same ids
        stem = new_message_stem(self._ids)

        def rule(tx: Transaction, thread_row: ThreadRow) -> list[Receipt]:
            entries = transcript.last_turn_asked(tx.connection, thread_row.row)
            receipts = rules_change.regenerate(thread_row.thread, entries, stem, tx.policy(thread_row), tx.now)
            tx.mark()
            transcript.remove(tx.connection, thread_row, beginning=entries[0].turn)
            return receipts

        return await self.change(address, rule, once=Once.of(once, "regenerate", address))

    async def compact(self, address: Address, *, through_turn: int, summary: str, once: str | None = None) -> None:
        def rule(tx: Transaction, thread_row: ThreadRow) -> None:
            tx.mark()
            rules_change.compact(thread_row.thread, summary, tx.now)
            transcript.remove(tx.connection, thread_row, through=through_turn)

        await self.change(address, rule, "ending", once=Once.of(once, "compact", address, through_turn, summary))

    async def update(self, address: Address, changes: Mapping[str, Any], *, once: str | None = None) -> ThreadRecord:
        def rule(tx: Transaction, thread_row: ThreadRow) -> ThreadRecord:
            rules_change.update(thread_row.thread, changes, tx.now)
            return _record(tx, thread_row)

        return await self.change(address, rule, once=Once.of(once, "update", address, changes))

    async def scan(
        self, *, tenant: str | None = None, queue: str | None = None, idle_for: float = 0.0
    ) -> AsyncIterator[ThreadRecord]:
        # pages, each with a snapshot of its own: one snapshot for all would keep the
        # log from being cut
        last = 0
        while True:
            look = partial(_page, after=last, tenant=tenant, queue=queue, idle_for=idle_for)
            page, last = await self.read_from(look)
            for record in page:
                yield record
            if last < 0:
                return

    async def search(self, query: ThreadSearch) -> list[ThreadRecord]:
        return await self.read_from(lambda view: _search(view, query))

    async def find_passages(self, query: TextSearch) -> list[Passage]:
        if passage_index.is_indexable(query.text):
            await self._bring_index_up_to_date()
        try:
            return await self.read_from(lambda view: _find_passages(view, query))
        except passage_index.IndexDamaged as error:
            log.warning("passage_index_thrown_away", error=str(error))
        await self.write(_throw_index_away)
        return await self.read_from(lambda view: _find_passages(view, query))

    async def _bring_index_up_to_date(self) -> None:
        """As far as one search may wait for it: what is not indexed yet is scanned."""
        try:
            for _ in range(_STEPS):
                if not await self.write(_index_passages):
                    return
        # a full disk: the search goes on without
        except StoreError as error:
            log.warning("passages_not_indexed", error=str(error))

    async def stats(self, *, tenant: str | None = None, queue: str | None = None) -> Stats:
        return await self.read_from(lambda view: counting.stats(view, tenant, queue))

    async def forget(self, address: Address, *, force: bool = False, once: str | None = None) -> bool:
        return await self.write(
            lambda tx: _forget(tx, address, force=force), "ending", Once.of(once, "forget", address, force)
        )

    async def expire(self, *, limit: int = 100) -> int:
        count, working = await self.write(lambda tx: _expire(tx, limit), "ending")
        self.use().wakeups.forget_nudges(working)
        return count


def _record(view: View, thread_row: ThreadRow) -> ThreadRecord:
    return thread_record(thread_row.thread, view.policy(thread_row))


def _slides(view: View, thread_row: ThreadRow) -> bool:
    return slides(thread_row.thread, view.policy(thread_row), view.now)


def _page(
    view: View, after: int, *, tenant: str | None, queue: str | None, idle_for: float
) -> tuple[list[ThreadRecord], int]:
    """Some threads, and from where on the next ones are (-1: that was the last page). Damaged ones
    are left out.
    """
    # without an idle time also those count whose last activity lies ahead, as after a
    # clock was set back
    records = every(
        view.connection,
        "SELECT id FROM thread WHERE id > ?1 AND (?2 IS NULL OR tenant = ?2) AND (?3 IS NULL OR queue = ?3)"
        " AND (?6 = 0 OR active_at <= ?4) ORDER BY id LIMIT ?5",
        (after, tenant, queue, view.now - idle_for, _PAGE, idle_for),
    )
    page: list[ThreadRecord] = []
    for (row,) in records:
        with suppress(ThreadQuarantined):
            thread_row = rows.load(view.connection, row, view.setup.incarnation)
            if not is_over(thread_row.thread, view.policy(thread_row), view.now):
                page.append(_record(view, thread_row))
    return page, records[-1][0] if len(records) == _PAGE else -1


def _as_stored(text: str) -> str:
    """A text that a head holds as it is, whatever holds it: then no other head has to be read. Else nothing."""
    return text.lower() if text.isascii() and encode(text)[1:-1] == text else ""


def _minute_of(moment: float | None) -> int:
    """As a column can hold it: a moment that somebody has made up may be any number."""
    return _END_OF_TIME if moment is None else int(max(-_END_OF_TIME, min(moment // 60, _END_OF_TIME)))


def _search(view: View, query: ThreadSearch) -> list[ThreadRecord]:
    at, thread_id = query.before or (None, None)
    values = {
        "tenant": query.tenant, "queue": query.queue, "place": query.place, "at": at, "thread_id": thread_id,
        "text": _as_stored(query.text), "minute": _minute_of(at), "most": _ROWS,
    }  # fmt: skip
    statement = _NEWEST_OF_SOME if None in (query.tenant, query.queue) else _NEWEST_OF_ONE
    result: list[ThreadRecord] = []
    # row by row: what is behind those that are shown is not read
    with closing(view.connection.execute(statement, values)) as cursor:
        for (row,) in cursor:
            with suppress(ThreadQuarantined):
                thread_row = rows.load(view.connection, row, view.setup.incarnation)
                record = _record(view, thread_row)
                if not is_over(thread_row.thread, view.policy(thread_row), view.now) and fits(record, query):
                    result.append(record)
            if len(result) >= query.limit:
                break
    return result


def _find_passages(view: View, query: TextSearch) -> list[Passage]:
    values = {"tenant": query.tenant, "queue": query.queue, "now": view.now}
    result: list[Passage] = []
    with closing(passage_index.candidates(view.connection, query.text, values)) as places:
        for *names, turn, at, tokens, body in places:
            with suppress(ThreadQuarantined):
                entry = TranscriptEntry(restore("entry", item_from_json, body), tokens, turn, at)
                if (passage := passage_in(Address(*names), entry, query.text)) is not None:
                    result.append(passage)
            if len(result) >= query.limit:
                break
    return result


def _index_passages(tx: Transaction) -> bool:
    tx.mark()
    return passage_index.index_some(tx.connection)


def _throw_index_away(tx: Transaction) -> None:
    tx.mark()
    passage_index.throw_away(tx.connection)


def _forget(tx: Transaction, address: Address, *, force: bool) -> bool:
    """A damaged thread can be forgotten too, by force."""
    row_address = rows.find(tx.connection, address)
    if row_address is not None and _is_there(tx, address, force=force):
        tx.erase_row(row_address.row, row_address.address)
        forget_letters(tx, row_address.address)
        return True
    return forget_letters(tx, address if row_address is None else row_address.address) > 0


def _is_there(tx: Transaction, address: Address, *, force: bool) -> bool:
    """Whether there is a thread to forget. Raises `ThreadBusy` while it is not to be forgotten."""
    try:
        thread_row = tx.find(address)
    except ThreadQuarantined:
        if not force:
            raise
        return True
    if thread_row is not None and (thread_row.thread.inbox or thread_row.thread.delayed) and not force:
        raise ThreadBusy("messages are open on this channel, wait for their answer or force it")
    return thread_row is not None


def _expire(tx: Transaction, limit: int) -> tuple[int, set[str]]:
    """What goes with time, a little at each call. How many threads went, and the owners that hold
    leases now.
    """
    tx.mark()
    count = _expire_threads(tx, limit)
    _trim_logs(tx, limit)
    connection, now = tx.connection, tx.now
    # a subquery, because DELETE with LIMIT is an option that SQLite may be built without
    connection.execute(
        "DELETE FROM known WHERE (thread, message_id) IN"
        " (SELECT thread, message_id FROM known WHERE forget_at <= ? LIMIT ?)",
        (now, _ROWS),
    )
    for statement, before in (
        ("DELETE FROM redriven WHERE forget_at <= ?", now),
        ("DELETE FROM past_id WHERE forget_at <= ?", now),
        ("DELETE FROM operation WHERE until <= ?", now),
        ("DELETE FROM document WHERE expires_at <= ?", now),
        ("DELETE FROM account WHERE until <= ?", now),
        ("DELETE FROM slowed WHERE until <= ?", now),
        ("DELETE FROM bucket WHERE at <= ?", now - _BUCKET),
        ("DELETE FROM nudge WHERE at <= ?", now - _NUDGE),
    ):
        connection.execute(statement, (before,))
    layout.note_time(connection, now)
    tx.shares.forget_silent()
    working = {owner for (owner,) in every(connection, "SELECT owner FROM thread WHERE owner IS NOT NULL")}
    return count, working


def _expire_threads(tx: Transaction, limit: int) -> int:
    """The column was written under the policy of that time: what counts is asked again."""
    over = every(
        tx.connection,
        "SELECT id, tenant, queue, channel FROM thread WHERE expires_at <= ? ORDER BY expires_at LIMIT ?",
        (tx.now, limit),
    )
    count = 0
    for row, *names in over:
        try:
            thread_row = tx.at(row, Address(*names))
        except ThreadQuarantined:
            continue
        if is_over(thread_row.thread, tx.policy(thread_row), tx.now):
            tx.erase(thread_row)
            count += 1
        else:
            tx.save(thread_row)
    return count


def _trim_logs(tx: Transaction, limit: int) -> None:
    """Events go by in the order in which they were stored; the logs of those that are
    old now are trimmed.
    """
    policies = tx.setup.policies
    # events lie in the order of all threads: whose queue keeps the longest says where to stop
    age = max(policy.log_age for policy in (policies.default, *policies.queues.values()))
    start = layout.get(tx.connection, "trimmed") or 0
    old = every(
        tx.connection,
        "SELECT position, thread, at FROM event WHERE position > ? ORDER BY position LIMIT ?",
        (start, _ROWS),
    )
    threads: dict[int, None] = {}
    for position, row, at in old:
        if at >= tx.now - age or (row not in threads and len(threads) == limit):
            break
        threads[row] = None
        start = position
    for row in threads:
        _trim_log(tx, row)
    # remembered in the file: the next call goes on from here instead of finding the same old events
    layout.put(tx.connection, "trimmed", start)


def _trim_log(tx: Transaction, row: int) -> None:
    names = tx.connection.execute("SELECT tenant, queue, channel FROM thread WHERE id = ?", (row,)).get
    try:
        thread_row = tx.at(row, Address(*names))
    except ThreadQuarantined:
        return
    event_log.trim(tx.connection, thread_row, tx.policy(thread_row), tx.now)
    tx.save(thread_row)
