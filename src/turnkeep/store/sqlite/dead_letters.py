"""Dead letters of the SQLite engine."""

from __future__ import annotations

from turnkeep.errors import NotFound
from turnkeep.messages import Address
from turnkeep.store import rules_change
from turnkeep.store.sqlite.codec import decode, encode, restore
from turnkeep.store.sqlite.connection import every
from turnkeep.store.sqlite.engine import Engine
from turnkeep.store.sqlite.once import Once
from turnkeep.store.sqlite.rows import letter_from_json
from turnkeep.store.sqlite.transaction import Transaction
from turnkeep.store.sqlite.view import View
from turnkeep.store.values import DeadLetter, Receipt

_LETTERS = (
    "SELECT body FROM dead WHERE dead_id > ?1 AND (?2 IS NULL OR tenant = ?2)"
    " AND (?3 IS NULL OR queue = ?3) ORDER BY dead_id LIMIT ?4"
)
# a union, so that each half has its index: a condition with OR would read all letters of the tenant
_LETTERS_OF_CHANNEL = (
    "SELECT body FROM (SELECT dead_id, body FROM dead WHERE tenant = ?2 AND queue = ?3 AND channel = ?4 UNION"
    " SELECT dead_id, body FROM dead WHERE tenant = ?2 AND queue = ?3 AND thread_id = ?4)"
    " WHERE dead_id > ?1 ORDER BY dead_id LIMIT ?5"
)


class SqliteDeadLetters(Engine):
    """Messages that no run could answer."""

    async def dead(
        self,
        *,
        tenant: str | None = None,
        queue: str | None = None,
        channel: str | None = None,
        after: str = "",
        limit: int = 100,
    ) -> list[DeadLetter]:
        def look(view: View) -> list[DeadLetter]:
            if channel is not None:
                rows = every(view.connection, _LETTERS_OF_CHANNEL, (after, tenant, queue, channel, limit))
            else:
                rows = every(view.connection, _LETTERS, (after, tenant, queue, limit))
            return [restore("dead letter", letter_from_json, body) for (body,) in rows]

        return await self.read_from(look)

    async def dead_letter(self, dead_id: str) -> DeadLetter | None:
        return await self.read_from(lambda view: _letter(view, dead_id))

    async def redrive(self, dead_id: str) -> Receipt:
        return await self.write(lambda tx: _redrive(tx, dead_id))

    async def discard(self, dead_id: str, *, once: str | None = None) -> bool:
        return await self.write(lambda tx: _remove_letter(tx, dead_id), "ending", Once.of(once, "discard", dead_id))


def forget_letters(tx: Transaction, address: Address) -> int:
    """They outlive their thread: those of a channel, or of the thread that the channel names."""
    tx.mark()
    tx.connection.execute(
        "DELETE FROM dead WHERE tenant = ?1 AND queue = ?2 AND (channel = ?3 OR thread_id = ?3)",
        (address.tenant, address.queue, address.channel),
    )
    return tx.connection.changes()


def _letter(view: View, dead_id: str) -> DeadLetter | None:
    body = view.connection.execute("SELECT body FROM dead WHERE dead_id = ?", (dead_id,)).get
    return None if body is None else restore("dead letter", letter_from_json, body)


def _remove_letter(tx: Transaction, dead_id: str) -> bool:
    tx.mark()
    tx.connection.execute("DELETE FROM dead WHERE dead_id = ?", (dead_id,))
    return tx.connection.changes() > 0


def _redrive(tx: Transaction, dead_id: str) -> Receipt:
    # the letter is gone after the first time: a repeat finds the first receipt instead of an error
    receipt_text = tx.connection.execute(
        "SELECT receipt FROM redriven WHERE dead_id = ? AND forget_at > ?", (dead_id, tx.now)
    ).get
    if receipt_text is not None:
        return Receipt(**decode(receipt_text))
    letter = _letter(tx, dead_id)
    if letter is None:
        raise NotFound(f"there is no dead letter {dead_id!r}")
    thread_row = tx.find_or_new(letter.address)
    policy = tx.policy(thread_row)
    accepted_id = tx.accepted_before(thread_row, letter.message.message_id)
    receipt = rules_change.redrive(thread_row.thread, letter, policy, tx.now, accepted_id)
    tx.save(thread_row)
    _remove_letter(tx, dead_id)
    tx.connection.execute(
        "REPLACE INTO redriven (dead_id, forget_at, receipt) VALUES (?, ?, ?)",
        (dead_id, tx.now + policy.dedupe, encode(receipt)),
    )
    return receipt
