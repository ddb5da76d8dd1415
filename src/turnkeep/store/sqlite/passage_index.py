"""What was said, found by its letters: an index of FTS5 over the texts of the transcripts.

It is made by searches and not by commits: the first one indexes what there is, some at a time, and
each later one what has come since; whoever never searches pays nothing. Groups of three letters and
not words, because all engines find a text within words too. What the index finds is looked at
before it is told, so it may hold too much, and never too little up to `indexed_through`.

Before entries are deleted, their letters leave the index by the same texts that brought them there
(`secure-delete` overwrites them): nothing of a forgotten thread stays.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import apsw

from turnkeep.errors import StoreError, StoreMisconfigured, ThreadQuarantined
from turnkeep.messages import item_from_json
from turnkeep.store.passages import MOST_ENTRIES, words_of
from turnkeep.store.sqlite.codec import encode, restore
from turnkeep.store.sqlite.connection import every

TABLE = (
    "CREATE VIRTUAL TABLE passage USING fts5 (words, content = '', columnsize = 0, detail = none, tokenize = 'trigram')"
)
"""As the file says it: any other virtual table is not ours."""
IS_THERE = "ENABLE_FTS5" in apsw.compile_options
GROUP = 3
"""Letters that are looked up together; a shorter text is found by a scan alone."""
AT_ONCE = 100
"""Entries that one act indexes: others write between them."""
MOST_GROUPS = 40
_DAMAGE = (apsw.CorruptError, apsw.SQLError)
"""What FTS5 says of tables that are not as it left them, or not there."""

_ROW = "tenant, queue, channel, turn, at, tokens, item"
_WITHIN = (
    "(:tenant IS NULL OR tenant = :tenant) AND (:queue IS NULL OR queue = :queue)"
    " AND (expires_at IS NULL OR expires_at > :now)"
)
# entries have the order of their commits; one that holds the text as JSON is looked at closer
_SCAN = (
    f"SELECT {_ROW} FROM (SELECT thread, turn, at, tokens, item FROM entry WHERE id > :through ORDER BY id DESC"  # noqa: S608  # our own names
    f" LIMIT {MOST_ENTRIES}) AS newest JOIN thread ON thread.id = newest.thread"
    f" WHERE {_WITHIN} AND instr(lower(item), lower(:text)) > 0"
)
_MATCH = (
    f"SELECT {_ROW} FROM passage JOIN entry ON entry.id = passage.rowid JOIN thread ON thread.id = entry.thread"  # noqa: S608  # our own names
    f" WHERE passage MATCH :match AND entry.id <= :through AND {_WITHIN} ORDER BY passage.rowid DESC"
)


class IndexDamaged(StoreError):
    """The index cannot be read; what was said is there."""


def require_module(connection: apsw.Connection) -> None:
    """Raises `StoreMisconfigured` where there is an index that this SQLite cannot read.

    Without it nothing could leave the index: what was to be forgotten would stay.
    """
    if not IS_THERE and indexed_through(connection) is not None:
        raise StoreMisconfigured(
            f"the store has an index of what was said, and this SQLite {apsw.sqlite_lib_version()} is built without"
            " FTS5, which reads it: install apsw as it comes from the package index"
        )


def candidates(connection: apsw.Connection, text: str, values: Mapping[str, Any]) -> Generator[tuple[Any, ...]]:
    """Entries that may hold this text, newest first: those that are indexed, and the newest that are not."""
    match = _query(text)
    through = indexed_through(connection) if match and IS_THERE else None
    about = {**values, "text": encode(text)[1:-1], "match": match, "through": through or 0}
    with closing(connection.execute(_SCAN, about)) as rows:
        yield from rows
    if through is None:
        return
    try:
        with closing(connection.execute(_MATCH, about)) as rows:
            yield from rows
    except _DAMAGE as error:
        raise IndexDamaged(f"the index of what was said cannot be read ({error}), search again") from error


def is_indexable(text: str) -> bool:
    return IS_THERE and bool(_query(text))


def _query(text: str) -> str:
    """All groups of letters of a text, as FTS5 asks for them."""
    clean = _clean(text)
    groups = dict.fromkeys(clean[start : start + GROUP] for start in range(len(clean) - GROUP + 1))
    phrases = ['"' + group.replace('"', '""') + '"' for group in groups]
    return "" if "\0" in clean else " AND ".join(phrases[:MOST_GROUPS])


def index_some(connection: apsw.Connection) -> bool:
    """Index the next entries. Whether there may be more."""
    through = indexed_through(connection)
    if through is None:
        through = 0
        connection.execute(TABLE)
        connection.execute("INSERT INTO passage (passage, rank) VALUES ('secure-delete', 1)")
        _put_through(connection, through)
    rows = every(connection, "SELECT id, item FROM entry WHERE id > ? ORDER BY id LIMIT ?", (through, AT_ONCE))
    # a write that says nothing new would be synced, and make other processes read all anew
    if rows:
        connection.executemany("INSERT INTO passage (rowid, words) VALUES (?, ?)", list(_indexable(rows)))
        _put_through(connection, rows[-1][0])
    return len(rows) == AT_ONCE


def leave_out(connection: apsw.Connection, condition: str, values: Sequence[Any]) -> None:
    """Take the entries of a condition out of the index, before they are deleted."""
    if (through := indexed_through(connection)) is None:
        return
    require_module(connection)
    # damage alone: with a failing or full disk SQLite has ended the transaction, and what follows would be done without
    try:
        rows = every(connection, f"SELECT id, item FROM entry WHERE id <= ? AND {condition}", (through, *values))  # noqa: S608  # our own conditions
        connection.executemany(
            "INSERT INTO passage (passage, rowid, words) VALUES ('delete', ?, ?)", list(_indexable(rows))
        )
        # ids above the highest that stays are given again
        [(highest,)] = every(connection, f"SELECT ifnull(max(id), 0) FROM entry WHERE NOT ({condition})", values)  # noqa: S608  # our own conditions
        _put_through(connection, min(through, highest))
    except _DAMAGE:
        # a search makes it anew: it must not keep a thread from going on
        throw_away(connection)


def throw_away(connection: apsw.Connection) -> None:
    """The next search makes it anew."""
    connection.execute("DROP TABLE IF EXISTS passage")
    connection.execute("DELETE FROM meta WHERE name = 'passages_through'")


def _indexable(rows: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    for number, body in rows:
        try:
            words = words_of(restore("entry", item_from_json, body))
        except ThreadQuarantined:
            continue
        if words:
            yield number, _clean(words)


def _clean(words: str) -> str:
    """Halves of a surrogate pair are no text for SQLite."""
    return words.encode("utf-8", "replace").decode()


def indexed_through(connection: apsw.Connection) -> int | None:
    """The id of the newest entry that is indexed; None where there is no index."""
    value: int | None = connection.execute("SELECT value FROM meta WHERE name = 'passages_through'").get
    return value


def _put_through(connection: apsw.Connection, number: int) -> None:
    connection.execute("REPLACE INTO meta (name, value) VALUES ('passages_through', ?)", (number,))
